# SPDX-License-Identifier: Apache-2.0
"""TFLM's Python interpreter: patched and plain models, its messages, its memory accounting."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
from tflite_micro.python.tflite_micro import runtime

from tflm_zo.errors import ZoError
from tflm_zo.ops import plugin
from tflm_zo.patching.frozen_prefix import SplitModel, layer_count, split

_HEAD_AND_TAIL = re.compile(r"Arena allocation head (\d+) bytes.*Arena allocation tail (\d+) bytes", re.DOTALL)

# Of what the frozen layers made of samples; beyond that the samples that were not used for longest are computed anew.
_REMEMBERED_BYTES = 256 << 20


@contextlib.contextmanager
def _captured_stderr(lines: list[str]) -> Iterator[None]:
    """Collect what TFLM prints: it writes to the file descriptor, past ``sys.stderr``."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            sink.seek(0)
            lines += sink.read().decode("utf-8", "replace").splitlines()


class Interpreter:
    """One model in one arena.

    ``arena_size`` in bytes; by default as much as the model needs. Raises :class:`ZoError` if the model needs an
    op that TFLM lacks, or more memory than ``arena_size``.
    """

    def __init__(self, model: bytes, arena_size: int | None = None) -> None:
        plugin.library()
        self._model = bytes(model)
        messages: list[str] = []
        # TFLM's memory planner runs past the end of an arena that is too small, and crashes, so it always gets
        # plenty, and ``arena_size`` is held against what it used.
        interpreter = self._create(self._generous_size(), messages)
        if interpreter is None:
            raise ZoError("TFLM cannot run this model: " + "; ".join(m for m in messages if m.strip()))
        self._interpreter = interpreter
        _check_arena(self.arena_bytes, arena_size)
        self.set_input = self._interpreter.set_input
        self.get_output = self._interpreter.get_output

    def _generous_size(self) -> int:
        return 10 * len(self._model) + (4 << 20)

    def _create(self, size: int, messages: list[str]) -> runtime.Interpreter | None:
        with _captured_stderr(messages):
            try:
                return runtime.Interpreter.from_bytes(
                    self._model, custom_op_registerers=[plugin.REGISTERER], arena_size=size
                )
            except (RuntimeError, ValueError):
                return None

    def invoke(self) -> None:
        """Run the graph. Raises :class:`ZoError` with TFLM's message if an op fails."""
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise ZoError(f"TFLM stopped the pass: {error}") from error

    def run(self, x: np.ndarray) -> np.ndarray:
        """Return output 0 for one input tensor ``x`` of the model's own shape and dtype."""
        self.set_input(x, 0)
        self.invoke()
        return self.get_output(0)

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena in use, by TFLM's own accounting (of this 64-bit build)."""
        return sum(self.arena_parts)

    @property
    def arena_parts(self) -> tuple[int, int]:
        """Bytes of the arena that a pass overwrites, and of those that stay."""
        lines: list[str] = []
        with _captured_stderr(lines):
            self._interpreter.print_allocations()
        match = _HEAD_AND_TAIL.search("\n".join(lines))
        if match is None:
            raise ZoError("TFLM printed no arena sizes: is this the pinned tflite-micro wheel?")
        return int(match[1]), int(match[2])

    def output_details(self, index: int = 0) -> dict:
        """Return TFLM's description of an output: shape, dtype, quantization_parameters."""
        return self._interpreter.get_output_details(index)


class TrainingInterpreter:
    """A patched model, whose frozen layers in front run once for each sample, if it has any.

    They are a model of their own then (:func:`tflm_zo.patching.frozen_prefix.split`), and what they make of a sample is
    remembered by its content: it never changes, for their weights never do. The outputs are those of the whole model,
    to the bit. ``arena_size`` and errors are those of :class:`Interpreter`."""

    def __init__(self, model: bytes, arena_size: int | None = None) -> None:
        parts = split(model)
        self._rest = Interpreter(model if parts is None else parts.suffix)
        self._frozen = None if parts is None else _FrozenLayers(parts)
        self._passes = 0
        self._rest_layers = layer_count(model) if parts is None else parts.suffix_layers
        _check_arena(self.arena_bytes, arena_size)

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


def _check_arena(needed: int, arena_size: int | None) -> None:
    if arena_size is None:
        return
    if arena_size < 1:
        raise ZoError(f"arena_size is {arena_size} bytes: it must be positive")
    if needed > arena_size:
        raise ZoError(
            f"the arena is too small: {arena_size} bytes, the model needs {needed}; "
            "raise arena_size or train fewer layers"
        )
