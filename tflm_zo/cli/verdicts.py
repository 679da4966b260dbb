# SPDX-License-Identifier: Apache-2.0
"""What can be done with a model, step by step, and if something cannot, why and what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tflm_zo.board.memory_plan import plan_memory
from tflm_zo.errors import ZoError
from tflm_zo.model.file import damage_reported, load_model
from tflm_zo.model.layer_names import listing
from tflm_zo.model.layers import trainable_layers
from tflm_zo.model.outputs import require_one_input
from tflm_zo.ops.names import is_patched
from tflm_zo.ops.options import LOSS_NAMES
from tflm_zo.patching.adapter import NAME as ADAPTER
from tflm_zo.patching.bake import bake
from tflm_zo.patching.loss_path import find_loss_end, missing_head
from tflm_zo.patching.patch import patch
from tflm_zo.patching.patched_model import PatchedModel, read_patched
from tflm_zo.realignment.realign import layers_to_realign
from tflm_zo.simulator.model import SimModel
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.inspection import Inspection, LayerRow
from tflm_zo.training.recipe import layer_methods

_BOARD = "nano33ble"


@dataclass(frozen=True)
class Verdict:
    """Whether a step is possible with a model; ``text`` says how, or why not and what to do."""

    step: str
    possible: bool
    text: str


@damage_reported()
def verdicts(model: bytes, found: Inspection) -> list[Verdict]:
    """Return what can be done with ``model``, patched or not, of which ``found`` is known."""
    plain = bake(model, {}) if is_patched(load_model(model)) else model
    training = _Training(model, found)
    return [
        Verdict("run in TFLM", not found.not_run, found.not_run or f"arena {found.arena_bytes} bytes (64-bit host)"),
        _verdict("trained", training.how),
        _verdict("simulated", lambda: _simulated(plain)),
        _verdict("planned", training.planned),
        _verdict("adapter", training.adapter),
        _verdict("realigned", lambda: _realigned(model, found)),
    ]


def _verdict(step: str, how: Callable[[], str]) -> Verdict:
    try:
        return Verdict(step, True, how())
    except ZoError as error:
        return Verdict(step, False, str(error))


class _Training:
    """How a model is trained: as it has been patched, or as `patch` does it by default, or else could."""

    def __init__(self, model: bytes, found: Inspection) -> None:
        self._found = found
        self._patched = model if found.patched else b""
        self._default_fails = ""
        self._model, self._trainable = model, "exact"
        if not found.patched:
            try:
                self._patched = patch(model)
            except ZoError as error:
                self._default_fails = str(error)
                if any(row.methods for row in found.layers):
                    self._trainable = "last:1"
                    self._patched = patch(model, self._trainable)

    def how(self) -> str:
        """What `train` would do. Raises :class:`ZoError` if there is no way to train the model."""
        if not self._patched:
            raise ZoError(self._default_fails)
        patched = read_patched(self._patched)
        how = f"{_methods(patched)}; loss {LOSS_NAMES[patched.loss.kind]}"
        if self._found.patched:
            return how
        if self._default_fails:
            tree = load_model(self._model)
            layers = trainable_layers(tree)
            why = missing_head(tree, layers, find_loss_end(tree, layers, "auto"))
            return f"with `patch --trainable {self._trainable}` {how}; not exactly: {why}"
        return f"by default {how}"

    def adapter(self) -> str:
        """Whether an adapter can be put in front. Raises :class:`ZoError` if not."""
        if self._found.patched:
            if all(label.name != ADAPTER for label in read_patched(self._patched).labels):
                raise ZoError("patched without one: patch the original model with --adapter")
            return "it has one"
        if not self._patched:
            raise ZoError("only a model that can be trained gets one")
        patch(self._model, self._trainable, adapter=True)
        return "patch --adapter: a gain and an offset for each input channel"

    def planned(self) -> str:
        """RAM and flash of what is trained, or of a model that cannot be. Raises :class:`ZoError` if they cannot be
        told, or do not suffice."""
        plan = plan_memory(self._patched or self._model, _BOARD)
        sizes = (
            f"{_BOARD}: {plan.ram_used} bytes of RAM of {plan.board.ram}, "
            f"{plan.flash_used} of flash of {plan.board.flash}"
        )
        if not plan.fits:
            raise ZoError(f"{sizes}; {plan.advice}")
        return sizes


def _methods(patched: PatchedModel) -> str:
    methods = layer_methods(patched, Hyperparameters())
    return "; ".join(
        f"{method}: {listing(label for label in patched.labels if methods[label.name] == method)}"
        for method in dict.fromkeys(methods.values())
    )


def _simulated(plain: bytes) -> str:
    SimModel(plain)
    return "select, tune and fast training take it"


def _realigned(model: bytes, found: Inspection) -> str:
    if found.patched:
        raise ZoError("the model is patched already: realign the original model, then patch it")
    tree = load_model(model)
    require_one_input(tree)
    layers = layers_to_realign(tree)
    SimModel(model)
    return f"{len(layers)} convolutions"


def layer_table(rows: list[LayerRow], patched: bool) -> str:
    """Return the layers as a table: operator, name, kind, shapes, bytes, and how each is or could be trained."""
    if not rows:
        return "no convolution and no fully connected layer"
    head = ("op", "layer", "type", "input", "output", "weights", "bytes", "in RAM", "trained by")
    lines = [head] + [
        (
            "" if row.number < 0 else str(row.number),
            row.name,
            row.kind,
            *(_shape(shape) for shape in (row.input_shape, row.output_shape, row.weight_shape)),
            str(row.weight_bytes + row.bias_bytes),
            str(row.ram_bytes),
            row.method if patched else (", ".join(row.methods) or "nothing"),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    places = [">" if name in ("op", "bytes", "in RAM") else "<" for name in head]
    return "\n".join(
        "  ".join(f"{cell:{place}{width}}" for cell, place, width in zip(line, places, widths, strict=True)).rstrip()
        for line in lines
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
