# SPDX-License-Identifier: Apache-2.0
"""A board and what it can be asked, as Python calls."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.ops.layouts import Mask
from tflm_zo.patching.patched_model import Parameter, model_hash
from tflm_zo.serial.layouts import (
    CheckpointAnswer,
    EvaluateAnswer,
    InferAnswer,
    MetricsAnswer,
    ObservedAnswer,
    ParameterAnswer,
    ParameterRequest,
    PassesAnswer,
    PieceRequest,
    ReadModelRequest,
    ReadWeightsRequest,
    Request,
    SetNodeRequest,
    SetParameterRequest,
    StepRequest,
    TrainingProgress,
    WriteWeightsRequest,
)
from tflm_zo.serial.link import Link, OnWork, Port
from tflm_zo.serial.messages import Hello, pack_schedule, unpack, unpack_totals
from tflm_zo.training.step_totals import StepTotals

_CHUNK = 512  # bytes of model or weights that are asked for at a time


class Device:
    """A board at ``port``, with a session of its own.

    Every method raises :class:`ZoError` if the board refuses or does not answer, and
    :class:`~tflm_zo.serial.link.BoardRestarted` if it has started anew; ``hello`` says what it is.
    """

    def __init__(self, port: Port, patience: float = 20.0) -> None:
        self.link = Link(port, patience)
        self.hello: Hello = self.link.hello()
        if not self.hello.model_runs:
            raise ZoError(f"the board's model does not run: {self.hello.message}")

    def read_model(self, on_bytes: Callable[[int], Any] | None = None) -> bytes:
        """Return the patched model that the board runs; ``on_bytes`` is told how many bytes came."""
        model = bytearray()
        while len(model) < self.hello.model_bytes:
            size = min(_CHUNK, self.hello.model_bytes - len(model))
            model += self.link.request(Request.READ_MODEL, bytes(ReadModelRequest(len(model), size)))
            if on_bytes is not None:
                on_bytes(size)
        if model_hash(bytes(model)) != self.hello.model_hash:
            raise ZoError("the board's model does not have the hash that the board gives: export and flash it again")
        return bytes(model)

    def parameter(self, index: int) -> ParameterAnswer:
        """Return entry ``index`` of the parameter table."""
        return unpack(ParameterAnswer, self.link.request(Request.PARAMETER, bytes(ParameterRequest(index))))

    def metrics(self) -> MetricsAnswer:
        """Return progress, the last step, passes since the board started, the duration of the last one in
        microseconds, the frames that arrived damaged, and how often the frozen layers ran."""
        return unpack(MetricsAnswer, self.link.request(Request.METRICS))

    # -- passes --------------------------------------------------------------------------------------------

    def infer(self, code: np.ndarray) -> tuple[int, bytes]:
        """Return the predicted class and the bytes of the output tensor for one sample in codes."""
        body = self._send_record(Request.INFER, b"", code.tobytes())
        return unpack(InferAnswer, body).prediction, body[ctypes.sizeof(InferAnswer) :]

    def evaluate(self, code: np.ndarray, target: np.ndarray) -> EvaluateAnswer:
        """Return prediction, loss and the squared length of the head's input of one labelled sample in codes."""
        return unpack(EvaluateAnswer, self._send_record(Request.EVALUATE, b"", code.tobytes() + target.tobytes()))

    def train(self, code: np.ndarray, target: np.ndarray, step: int, rate_scale: float) -> StepTotals:
        """Train on one labelled sample, as a step of its own."""
        record = code.tobytes() + target.tobytes()
        return unpack_totals(self._send_record(Request.TRAIN, bytes(StepRequest(step, rate_scale)), record))

    def begin_batch(self) -> None:
        """Forget the samples of the batch."""
        self.link.request(Request.BEGIN_BATCH)

    def add_sample(self, code: np.ndarray, target: np.ndarray) -> None:
        """Add a labelled sample in codes to the batch."""
        self._send_record(Request.SAMPLE, b"", code.tobytes() + target.tobytes())

    def end_batch(self, step: int, rate_scale: float, on_work: OnWork | None = None) -> StepTotals:
        """Train one step on the batch; ``rate_scale`` multiplies all learning rates."""
        return unpack_totals(self.link.request(Request.END_BATCH, bytes(StepRequest(step, rate_scale)), on_work))

    def finish(self) -> int:
        """Apply the update that the last step left pending; returns the passes that took (0 or 1)."""
        return unpack(PassesAnswer, self.link.request(Request.FINISH)).passes

    def begin_observation(self) -> None:
        """Forget the samples that were observed."""
        self.link.request(Request.BEGIN_OBSERVATION)

    def observe(self, code: np.ndarray) -> int:
        """Add a sample in codes to those that recalibration goes by; returns how many they are."""
        return unpack(ObservedAnswer, self._send_record(Request.OBSERVE, b"", code.tobytes())).samples

    def recalibrate(self) -> int:
        """Set the input adapter by the samples that were observed; returns how many they were."""
        return unpack(ObservedAnswer, self.link.request(Request.RECALIBRATE)).samples

    def _send_record(self, kind: Request, fields: bytes, record: bytes) -> bytes:
        room = self.hello.max_payload - len(fields) - ctypes.sizeof(PieceRequest)
        body = b""
        for offset in range(0, len(record), room):
            piece = record[offset : offset + room]
            body = self.link.request(kind, fields + bytes(PieceRequest(offset)) + piece)
        return body

    # -- settings ------------------------------------------------------------------------------------------

    def set_schedule(self, **settings: Any) -> None:
        """Say what a step is made of; see :func:`~tflm_zo.serial.messages.pack_schedule`."""
        self.link.request(Request.SET_SCHEDULE, pack_schedule(**settings))

    def set_parameter(self, index: int, sigma: int, rate: float, mask: tuple[int, int] = (0, 0)) -> None:
        """Set perturbation (codes), learning rate and mask (kind, level) of a parameter."""
        self.link.request(Request.SET_PARAMETER, bytes(SetParameterRequest(index, sigma, rate, Mask(*mask))))

    def set_node(self, node: int, sigma: int, block: int, rate: float, mask: tuple[int, int] = (0, 0)) -> None:
        """Set perturbation (output codes), block, learning rate and mask of a node."""
        self.link.request(Request.SET_NODE, bytes(SetNodeRequest(node, sigma, block, rate, Mask(*mask))))

    # -- weights -------------------------------------------------------------------------------------------

    def checkpoint(self) -> int:
        """Save the weights in flash; returns the checkpoint's number."""
        return unpack(CheckpointAnswer, self.link.request(Request.CHECKPOINT)).sequence

    def restore(self) -> TrainingProgress:
        """Load the newest checkpoint."""
        return unpack(TrainingProgress, self.link.request(Request.RESTORE))

    def factory_reset(self) -> None:
        """Bring back the weights that the model was exported with, and remove the checkpoints."""
        self.link.request(Request.FACTORY_RESET)

    def read_weights(self, parameter: Parameter) -> np.ndarray:
        """Return a parameter's values, shaped (of its dtype)."""
        size = parameter.arena_bytes
        data = b""
        while len(data) < size:
            piece = ReadWeightsRequest(parameter.index, len(data), min(_CHUNK, size - len(data)))
            data += self.link.request(Request.READ_WEIGHTS, bytes(piece))
        return np.frombuffer(data, dtype=parameter.dtype).reshape(parameter.shape)

    def write_weights(self, parameter: Parameter, values: np.ndarray) -> None:
        """Overwrite a parameter's values."""
        data = np.ascontiguousarray(values, dtype=parameter.dtype).tobytes()
        if len(data) != parameter.arena_bytes:
            raise ZoError(f"{parameter.name}: got {np.size(values)} values, it has {parameter.count}")
        room = (self.hello.max_payload - ctypes.sizeof(WriteWeightsRequest)) // 4 * 4
        for offset in range(0, len(data), room):
            head = WriteWeightsRequest(parameter.index, offset)
            self.link.request(Request.WRITE_WEIGHTS, bytes(head) + data[offset : offset + room])
