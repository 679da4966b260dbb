# SPDX-License-Identifier: Apache-2.0
"""TFLM's Python interpreter: its messages, its memory accounting."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model
from tflm_zo.model.state import read_state
from tflm_zo.ops.names import is_patched
from tflm_zo.tflm import plugin, wheel

_HEAD_AND_TAIL = re.compile(r"Arena allocation head (\d+) bytes.*Arena allocation tail (\d+) bytes", re.DOTALL)


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

    ``arena_size`` in bytes; by default as much as the model needs. ``keep_state``: whether a plain model's state
    (:mod:`tflm_zo.model.state`) goes on from one :meth:`run` to the next, which samples of a stream want; a patched
    model clears it in every pass. Raises :class:`ZoError` if the model needs an op that TFLM lacks, or more memory than
    ``arena_size``, or if TFLM's wheel is missing.
    """

    def __init__(self, model: bytes, arena_size: int | None = None, *, keep_state: bool = False) -> None:
        self._runtime = wheel.runtime()
        plugin.load()
        self._model = bytes(model)
        messages: list[str] = []
        # TFLM's memory planner runs past the end of an arena that is too small, and crashes, so it always gets
        # plenty, and ``arena_size`` is held against what it used.
        plugin.take_state()
        interpreter = self._create(self._generous_size(), messages)
        self._state = plugin.take_state()
        if interpreter is None:
            raise ZoError("TFLM cannot run this model: " + "; ".join(m for m in messages if m.strip()))
        self._interpreter = interpreter
        check_arena(self.arena_bytes, arena_size)
        self._keeps_state = keep_state
        self.set_input = self._interpreter.set_input
        self.get_output = self._interpreter.get_output

    @cached_property
    def _resets(self) -> bool:
        """Whether each run starts from a cleared state; the passes of a training, which are no runs, do not ask."""
        if self._keeps_state:
            return False
        tree = load_model(self._model)
        return not is_patched(tree) and bool(read_state(tree))

    def _generous_size(self) -> int:
        return 10 * len(self._model) + (4 << 20)

    def _create(self, size: int, messages: list[str]) -> Any:
        with _captured_stderr(messages):
            try:
                return self._runtime.Interpreter.from_bytes(
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

    def run(self, x: np.ndarray, output: int = 0) -> np.ndarray:
        """Return an output for one input tensor ``x`` of the model's own shape and dtype."""
        if self._resets:
            self._interpreter.reset()
        self.set_input(x, 0)
        self.invoke()
        return self.get_output(output)

    @property
    def state_address(self) -> int:
        """Address of the state of the model's parameter op, as the op itself has told. Raises :class:`ZoError` if the
        model has no such op."""
        if self._state is None:
            raise ZoError("the model has no training ops: patch it first with `tflm-zo patch`")
        return self._state

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


def check_arena(needed: int, arena_size: int | None) -> None:
    """Raise :class:`ZoError` if ``arena_size`` (bytes; None: as much as needed) is less than ``needed``."""
    if arena_size is None:
        return
    if arena_size < 1:
        raise ZoError(f"arena_size is {arena_size} bytes: it must be positive")
    if needed > arena_size:
        raise ZoError(
            f"the arena is too small: {arena_size} bytes, the model needs {needed}; "
            "raise arena_size or train fewer layers"
        )
