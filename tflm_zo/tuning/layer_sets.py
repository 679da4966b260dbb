# SPDX-License-Identifier: Apache-2.0
"""Sets of layers to train: the patched model of each, and its memory on a board."""

from __future__ import annotations

import glob

from tflm_zo.board.memory_plan import MemoryPlan, plan_memory
from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model
from tflm_zo.model.layers import trainable_layers
from tflm_zo.patching.adapter import NAME as ADAPTER
from tflm_zo.patching.adapter import add_adapter
from tflm_zo.patching.loss_path import closed_forms, find_loss_end
from tflm_zo.patching.patch import patch
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.recipe import layer_methods

Names = frozenset[str]


class LayerSets:
    """The trainable layers of the plain int8 ``model``, the input adapter among them where it is possible.

    ``layers`` maps names to kinds of operators, ``head`` is the name of the exact head (None without one),
    ``closed`` those of the other layers with a closed form; ``loss`` as for :func:`tflm_zo.patch`. Raises
    :class:`ZoError` for models that cannot be trained.
    """

    def __init__(self, model: bytes, board: str, ram: int, flash: int, loss: str = "auto") -> None:
        self._model, self._board, self.ram_limit, self.flash_limit = model, board, ram, flash
        self.loss = loss
        tree = load_model(model)
        layers = trainable_layers(tree)
        end = find_loss_end(tree, layers, loss)
        self.layers = {layer.name: layer.kind for layer in layers}
        self.head = None if end.head is None else end.head.name
        self.closed = frozenset(form.layer.name for form in closed_forms(tree, layers, end.head))
        try:
            add_adapter(tree)
            self.layers[ADAPTER] = "gain and offset"
        except ZoError:
            pass  # this model's input admits no adapter
        self._patched: dict[Names, bytes] = {}
        self._plans: dict[Names, MemoryPlan] = {}

    @property
    def default(self) -> Names:
        """What ``patch`` trains by default: all layers with a closed form; empty if there are none."""
        return self.closed | {self.head} if self.head else frozenset()

    def trainable(self, names: Names) -> str:
        """The argument ``trainable`` of :func:`patch` for these layers."""
        plain = names - {ADAPTER}
        if plain and plain == self.default and plain != {self.head}:
            return "exact"
        ordered = [name for name in self.layers if name in plain]
        # The adapter is trained by its own switch; where it is all there is, its name stands for it.
        return ",".join("head" if name == self.head else glob.escape(name) for name in ordered) or ADAPTER

    def patched(self, names: Names) -> bytes:
        """The model patched to train these layers."""
        if names not in self._patched:
            self._patched[names] = patch(self._model, self.trainable(names), self.loss, adapter=ADAPTER in names)
        return self._patched[names]

    def plan(self, names: Names) -> MemoryPlan:
        """The memory of these layers' training on the board."""
        if names not in self._plans:
            self._plans[names] = plan_memory(self.patched(names), self._board)
        return self._plans[names]

    def fits(self, names: Names) -> bool:
        """Whether that is within the limits."""
        plan = self.plan(names)
        return plan.ram_used <= self.ram_limit and plan.flash_used <= self.flash_limit

    def added(self, name: str, base: Names) -> tuple[int, int]:
        """Bytes of RAM and flash that ``name`` adds to a set; to the empty one, its weights and their state alone."""
        with_it = self.plan(base | {name})
        if not base:
            return with_it.layers.get(name, 0), 0
        without = self.plan(base)
        return with_it.ram_used - without.ram_used, with_it.flash_used - without.flash_used

    def method(self, name: str) -> str:
        """How the layer is trained if nothing else is asked for."""
        return layer_methods(read_patched(self.patched(frozenset({name}))), Hyperparameters()).get(name, "frozen")
