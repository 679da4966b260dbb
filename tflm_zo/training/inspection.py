# SPDX-License-Identifier: Apache-2.0
"""What a model's layers are, what is trainable, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tflm_zo.errors import ZoError
from tflm_zo.model.file import damage_reported, load_model
from tflm_zo.model.graph import main_graph
from tflm_zo.model.layer_names import label_layers, unique
from tflm_zo.model.layers import trainable_layers
from tflm_zo.model.outputs import output_names
from tflm_zo.model.state import read_state
from tflm_zo.ops.names import is_patched
from tflm_zo.ops.options import LOSS_NAMES
from tflm_zo.patching.bake import bake
from tflm_zo.patching.patch import patch
from tflm_zo.patching.patched_model import read_patched, trained_output
from tflm_zo.training.host_arena import host_arena_bytes
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.recipe import layer_methods, possible_methods


@dataclass(frozen=True)
class LayerRow:
    """A layer with weights: bytes in flash, and of these the bytes moved to RAM (0: frozen).

    ``method``: how it is trained as the model stands; ``methods``: by what it could be, the best first. ``number`` and
    ``handle``: see :class:`~tflm_zo.model.layer_names.LayerLabel`; shapes with the batch dimension.
    """

    name: str
    kind: str
    weight_bytes: int
    bias_bytes: int
    ram_bytes: int
    method: str
    number: int
    handle: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """``arena_bytes`` as :func:`~tflm_zo.training.host_arena.host_arena_bytes` has them, None if TFLM cannot run the
    model, for the reason ``not_run``; ``ram_bytes`` are trainable weights within it. ``outputs`` describes each of the
    model's outputs, ``state`` what it carries from pass to pass, and the rule for it ("": nothing)."""

    layers: list[LayerRow]
    patched: bool
    loss: str
    ram_bytes: int
    arena_bytes: int | None
    not_run: str
    model_bytes: int
    outputs: list[str]
    state: str


@damage_reported()
def inspect(model: bytes) -> Inspection:
    """Return what ``model``, patched or not, can train and what that costs in memory.

    Raises :class:`~tflm_zo.errors.ZoError` if it is no model, or a damaged one.
    """
    tree = load_model(model)
    loss = ""
    moved: dict[int, int] = {}
    methods: dict[str, str] = {}
    if is_patched(tree):
        patched = read_patched(model)
        loss = LOSS_NAMES[patched.loss.kind]
        methods = layer_methods(patched, Hyperparameters())
        for parameter in patched.parameters:
            moved[parameter.entry.layer] = moved.get(parameter.entry.layer, 0) + parameter.arena_bytes
    plain = bake(model, {}) if is_patched(tree) else model
    rows = _rows(plain, moved, methods)
    arena_bytes, not_run = None, ""
    try:
        arena_bytes = host_arena_bytes(model)
    except ZoError as error:
        not_run = str(error)
    return Inspection(
        layers=rows,
        patched=is_patched(tree),
        loss=loss,
        ram_bytes=sum(row.ram_bytes for row in rows),
        arena_bytes=arena_bytes,
        not_run=not_run,
        model_bytes=len(model),
        outputs=_outputs(load_model(plain), patched=trained_output(tree) if is_patched(tree) else None),
        state=_state(load_model(plain), patched=is_patched(tree)),
    )


def _outputs(tree: Any, patched: int | None) -> list[str]:
    graph = tree.subgraphs[0]
    tensors = [main_graph(tree).tensors[int(i)] for i in graph.outputs]
    return [
        f"{place} {name} {list(tensor.shape)} {tensor.type.lower()}" + (", trained" if place == patched else "")
        for place, (name, tensor) in enumerate(zip(output_names(tree), tensors, strict=True))
    ]


def _state(tree: Any, patched: bool) -> str:
    state = read_state(tree)
    if not state:
        return ""
    return f"of {', '.join(state.keep)}; cleared in each pass" if patched else str(state)


def _rows(plain: bytes, moved: dict[int, int], methods: dict[str, str]) -> list[LayerRow]:
    """The layers of an unpatched model, also of one that cannot be trained.

    moved: bytes in RAM by the layer's ordinal; methods: how a layer is trained, by name.
    """
    tree = load_model(plain)
    graph = main_graph(tree)
    try:
        layers = {layer.operator_index: layer for layer in trainable_layers(tree)}
        possible = possible_methods(read_patched(patch(plain, "all")))
    except ZoError:  # why is said elsewhere: the command asks each step by itself
        layers, possible = {}, {}
    rows: list[LayerRow] = []
    for index, label in label_layers(graph).items():
        operator, layer = graph.operators[index], layers.get(index)
        source, weights, target = (graph.tensors[i] for i in (*operator.inputs[:2], operator.outputs[0]))
        name = unique(label, (row.name for row in rows)).name if layer is None else layer.name
        bias = [graph.tensors[i] for i in operator.inputs[2:3] if i >= 0]
        rows.append(
            LayerRow(
                name=name,
                kind=operator.name,
                weight_bytes=0 if weights.content is None else weights.content.size,
                bias_bytes=sum(0 if b.content is None else b.content.size for b in bias),
                ram_bytes=0 if layer is None else moved.get(layer.ordinal, 0),
                method=methods.get(name, "frozen"),
                number=label.number,
                handle=label.handle,
                input_shape=source.shape,
                output_shape=target.shape,
                weight_shape=weights.shape,
                methods=possible.get(name, ()),
            )
        )
    return rows
