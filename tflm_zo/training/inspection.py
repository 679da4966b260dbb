# SPDX-License-Identifier: Apache-2.0
"""What a model's layers are, what is trainable, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

from tflm_zo.model.file import load_model
from tflm_zo.model.layers import trainable_layers
from tflm_zo.ops.names import is_patched
from tflm_zo.ops.options import LOSS_NAMES
from tflm_zo.patching.bake import bake
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.training.host_arena import host_arena_bytes
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.recipe import layer_methods


@dataclass(frozen=True)
class LayerRow:
    """A layer that can be trained: bytes in flash, and of these the bytes moved to RAM (0: frozen)."""

    name: str
    kind: str
    weight_bytes: int
    bias_bytes: int
    ram_bytes: int
    method: str


@dataclass(frozen=True)
class Inspection:
    """``arena_bytes`` as :func:`~tflm_zo.training.host_arena.host_arena_bytes` has them; ``ram_bytes`` are trainable
    weights within it."""

    layers: list[LayerRow]
    patched: bool
    loss: str
    ram_bytes: int
    arena_bytes: int
    model_bytes: int


def inspect(model: bytes) -> Inspection:
    """Return what ``model``, patched or not, can train and what that costs in memory.

    Raises :class:`~tflm_zo.errors.ZoError` if it is no int8 model or TFLM cannot run it.
    """
    tree = load_model(model)
    loss = ""
    if not is_patched(tree):
        rows = [
            LayerRow(layer.name, layer.kind, layer.weight_count, 4 * layer.bias_count, 0, "frozen")
            for layer in trainable_layers(tree)
        ]
    else:
        patched = read_patched(model)
        loss = LOSS_NAMES[patched.loss.kind]
        methods = layer_methods(patched, Hyperparameters())
        moved: dict[str, int] = {}
        for parameter in patched.parameters:
            moved[parameter.layer] = moved.get(parameter.layer, 0) + parameter.arena_bytes
        rows = [
            LayerRow(
                layer.name,
                layer.kind,
                layer.weight_count,
                4 * layer.bias_count,
                moved.get(layer.name, 0),
                methods.get(layer.name, "frozen"),
            )
            for layer in trainable_layers(load_model(bake(model, {})))
        ]
    return Inspection(
        layers=rows,
        patched=is_patched(tree),
        loss=loss,
        ram_bytes=sum(row.ram_bytes for row in rows),
        arena_bytes=host_arena_bytes(model),
        model_bytes=len(model),
    )
