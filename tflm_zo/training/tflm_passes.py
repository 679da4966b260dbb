# SPDX-License-Identifier: Apache-2.0
"""Passes of a patched model in TFLM, whose frozen layers run once for each sample."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from tflm_zo.patching.frozen_prefix import SplitModel, layer_count, split
from tflm_zo.tflm.interpreter import Interpreter, check_arena

# The most memory for the frozen layers' outputs. Beyond it those of the samples that were not used for longest are
# dropped, and computed again when they are needed.
_REMEMBERED_BYTES = 256 << 20


class TrainingInterpreter:
    """A patched model, whose frozen layers in front run once for each sample, if it has any.

    They are a model of their own then (:func:`tflm_zo.patching.frozen_prefix.split`), and what they make of a sample is
    remembered by its content: it never changes, for their weights never do. The outputs are those of the whole model,
    to the bit. ``arena_size`` and errors are those of :class:`Interpreter`.
    """

    def __init__(self, model: bytes, arena_size: int | None = None) -> None:
        parts = split(model)
        self._rest = Interpreter(model if parts is None else parts.suffix)
        self._frozen = None if parts is None else _FrozenLayers(parts)
        self._passes = 0
        self._rest_layers = layer_count(model) if parts is None else parts.suffix_layers
        check_arena(self.arena_bytes, arena_size)

    def run(self, x: np.ndarray, target: np.ndarray, command: np.ndarray) -> np.ndarray:
        """One forward pass on input ``x``, in the state that ``command`` asks for; returns the report (int32[8])."""
        rest = self._rest
        # Later layers may overwrite input tensors, so all are set before each pass.
        if self._frozen is None:
            rest.set_input(x, 0)
        else:
            for index, kept in zip((0, *range(3, 9)), self._frozen.outputs(x), strict=False):
                rest.set_input(kept, index)
        rest.set_input(command, 1)
        rest.set_input(target, 2)
        self._passes += 1
        rest.invoke()
        return rest.get_output(1)

    def output(self) -> np.ndarray:
        """The model's output in the last pass."""
        return self._rest.get_output(0)

    @property
    def state_address(self) -> int:
        """See :attr:`Interpreter.state_address`."""
        return self._rest.state_address

    @property
    def layer_executions(self) -> int:
        """How many layers have been executed so far, over all passes; training ops do not count."""
        ahead = 0 if self._frozen is None else self._frozen.runs * self._frozen.layers
        return ahead + self._passes * self._rest_layers

    @property
    def saved_executions(self) -> int:
        """How many more it would have been if each pass had executed all layers."""
        return 0 if self._frozen is None else (self._passes - self._frozen.runs) * self._frozen.layers

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena in use, by TFLM's own accounting (of this 64-bit build): where the model is run in two
        parts, of one arena for both, which overwrite each other's activations, as on a board."""
        parts = [self._rest.arena_parts, *([] if self._frozen is None else [self._frozen.arena_parts])]
        return max(head for head, _ in parts) + sum(tail for _, tail in parts)


class _FrozenLayers:
    """The layers that run once for each sample; ``runs`` counts how often they did."""

    def __init__(self, parts: SplitModel) -> None:
        self._interpreter = Interpreter(parts.prefix)
        self._remembered: OrderedDict[bytes, list[np.ndarray]] = OrderedDict()
        self._kept, self._kept_bytes = len(parts.kept_shapes), parts.kept_bytes
        self.layers = parts.prefix_layers
        self.runs = 0

    @property
    def arena_parts(self) -> tuple[int, int]:
        return self._interpreter.arena_parts

    def outputs(self, x: np.ndarray) -> list[np.ndarray]:
        """What the layers make of ``x``."""
        key = x.tobytes()
        if key in self._remembered:
            self._remembered.move_to_end(key)
            return self._remembered[key]
        self._interpreter.set_input(x, 0)
        self._interpreter.invoke()
        self.runs += 1
        found = [self._interpreter.get_output(index) for index in range(self._kept)]
        self._remembered[key] = found
        if len(self._remembered) * (len(key) + self._kept_bytes) > _REMEMBERED_BYTES:
            self._remembered.popitem(last=False)
        return found
