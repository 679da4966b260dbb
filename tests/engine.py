# SPDX-License-Identifier: Apache-2.0
"""A patched model in TFLM, driven pass by pass, with the NumPy reference of its parameters beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import reference
from tflite_micro.python.tflite_micro import runtime

from tflm_zo.ops import compiled
from tflm_zo.ops.command import COMMAND_DTYPE
from tflm_zo.ops.options import KIND_BIAS
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.tflm import plugin


def command(**fields: Any) -> np.ndarray:
    """A command of these fields, the others 0, as the input tensor int32[16]."""
    record = np.zeros((), dtype=COMMAND_DTYPE)
    for name, value in ({"magic": reference.MAGIC} | fields).items():
        record[name] = value
    return np.frombuffer(record.tobytes(), dtype=np.int32)


class Engine:
    """Passes with raw commands. ``state`` is the parameter op's state, after the first pass."""

    def __init__(self, patched: bytes, x: np.ndarray | None = None, *, preserve: bool = False) -> None:
        """preserve: no two tensors share memory, so that those within the model can be read after a pass."""
        config = runtime.InterpreterConfig
        self.model = read_patched(patched)
        plugin.load()
        self.interpreter = runtime.Interpreter.from_bytes(
            patched,
            custom_op_registerers=[plugin.REGISTERER],
            arena_size=1 << 17,
            intrepreter_config=config.kPreserveAllTensors if preserve else config.kAllocationRecording,
        )
        rng = np.random.default_rng(5)
        self.x = rng.integers(-128, 128, self.model.input_shape).astype(np.int8) if x is None else x
        kind = np.int32 if self.model.loss.classes else np.int8
        self.target = np.zeros(self.model.target_shape, dtype=kind)
        report = self.run()
        low, high = (int(v) & 0xFFFFFFFF for v in report[4:6])
        self.state = compiled.OpState(low | high << 32)

    def run(self, words: np.ndarray | None = None, x: np.ndarray | None = None, target: Any = None) -> np.ndarray:
        """One pass; returns the report. Without ``words`` the command tensor is left as it is."""
        self.interpreter.set_input(self.x if x is None else x, 0)
        if words is not None:
            self.interpreter.set_input(words, 1)
        if target is None:
            target = self.target
        self.interpreter.set_input(np.reshape(target, self.target.shape).astype(self.target.dtype), 2)
        self.interpreter.invoke()
        return self.interpreter.get_output(1)

    def loss(self, words: np.ndarray, x: np.ndarray | None = None, target: Any = None) -> np.float32:
        return self.run(words, x, target)[1:2].view(np.float32)[0]

    def output(self) -> np.ndarray:
        return self.interpreter.get_output(0)

    def tensor(self, index: int) -> np.ndarray:
        """A tensor of the model as the last pass left it, if all are preserved."""
        return self.interpreter.GetTensor(index, 0)["tensor_data"].copy()

    def tensors(self) -> list[np.ndarray]:
        """All parameters as they lie in the arena, residual included."""
        return [self.state.view(p.index).copy() for p in self.model.parameters]

    def reference(self) -> reference.ParameterOp:
        """The NumPy reference of the parameter op, at the initial weights."""
        return reference.ParameterOp(
            [
                reference.Parameter(
                    initial=p.initial if p.in_model else np.zeros(p.count),
                    limit=2**31 - 1 if p.kind == KIND_BIAS else 127,
                    headroom=p.entry.headroom,
                    channels=p.entry.channels,
                    channel_stride=p.entry.channel_stride,
                    factors=p.factors,
                    layer=p.entry.layer,
                )
                for p in self.model.parameters
            ]
        )
