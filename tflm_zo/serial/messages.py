# SPDX-License-Identifier: Apache-2.0
"""What frames carry: requests of the host and the board's answers.

The twin of ``micro_app/src/app/messages.h``; ``docs/protocol.md`` specifies every field.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from tflm_zo.errors import ZoError
from tflm_zo.ops.step import Exact, Group
from tflm_zo.training.step_totals import StepTotals

MESSAGE_VERSION = 3
ANSWER_BIT = 0x80


class Request(enum.IntEnum):
    """Frame types of requests; an answer's type is that of its request with ``ANSWER_BIT`` set."""

    HELLO = 0x01
    PARAMETER = 0x02
    METRICS = 0x03
    READ_MODEL = 0x04
    INFER = 0x10
    EVALUATE = 0x11
    TRAIN = 0x12
    BEGIN_BATCH = 0x13
    SAMPLE = 0x14
    END_BATCH = 0x15
    FINISH = 0x16
    BEGIN_OBSERVATION = 0x17
    OBSERVE = 0x18
    RECALIBRATE = 0x19
    SET_SCHEDULE = 0x20
    SET_PARAMETER = 0x21
    SET_NODE = 0x22
    CHECKPOINT = 0x30
    RESTORE = 0x31
    FACTORY_RESET = 0x32
    READ_WEIGHTS = 0x33
    WRITE_WEIGHTS = 0x34


class Status(enum.IntEnum):
    """First byte of every answer."""

    OK = 0
    IN_WORK = 1
    UNKNOWN_REQUEST = 2
    BAD_REQUEST = 3
    NO_SESSION = 4
    OUT_OF_SEQUENCE = 5
    MODEL = 6
    STORAGE = 7


@dataclass(frozen=True)
class TrainingProgress:
    """How far training on the board has come: name of the run (0: none), number of the next step, forward passes,
    the learning rate of the exact layers."""

    run: int
    steps: int
    passes: int
    head_rate: float


@dataclass(frozen=True)
class Hello:
    """What a board is and where it stands. Sizes in bytes; ``boot_checkpoint`` is the number of the checkpoint that
    it loaded when it started (0: none), ``message`` says so in words."""

    continued: bool
    model_runs: bool
    boot_checkpoint: int
    model_hash: int
    model_bytes: int
    input_bytes: int
    target_bytes: int
    output_bytes: int
    parameters: int
    nodes: int
    batch_capacity: int
    max_payload: int
    progress: TrainingProgress
    message: str


@dataclass(frozen=True)
class Metrics:
    """Progress, the last step, passes since the board started, the duration of the last one in microseconds, and
    the frames that arrived damaged; how often the frozen layers ran, where they run once a sample."""

    progress: TrainingProgress
    last_step: StepTotals
    passes: int
    pass_micros: int
    damaged_frames: int
    frozen_runs: int


@dataclass(frozen=True)
class Evaluation:
    """One sample: predicted class, loss, squared length of the head's input."""

    prediction: int
    loss: float
    feature_energy: float


@dataclass(frozen=True)
class ParameterInfo:
    """An entry of the board's parameter table; ``moments`` counts floats of the momentum state."""

    kind: int
    exact: bool
    layer: int
    count: int
    headroom: int
    moments: int


_VERSION = struct.Struct("<H")
_HELLO = struct.Struct("<HBBBIQIIIIHHHI")
_PROGRESS = struct.Struct("<IIIf")
_TOTALS = struct.Struct("<IfI")
_METRICS = struct.Struct("<IIII")
_EVALUATION = struct.Struct("<iff")
_PARAMETER = struct.Struct("<BBiIiI")
_SCHEDULE = struct.Struct("<IIHIBBBfB")
_GROUP = struct.Struct("<BBHH")


def _unpack(record: struct.Struct, body: bytes, offset: int = 0) -> tuple:
    if len(body) < offset + record.size:
        raise ZoError("the board's answer is too short: host and firmware are of different versions")
    return record.unpack_from(body, offset)


def unpack_hello(body: bytes) -> Hello:
    """Return the answer to a hello. Raises :class:`ZoError` if the firmware is of another version."""
    version = _unpack(_VERSION, body)[0]
    if version != MESSAGE_VERSION:
        raise ZoError(
            f"the board's firmware speaks version {version} of the protocol, this tflm-zo version {MESSAGE_VERSION}: "
            "export and flash it again"
        )
    _, continued, model_status, _, checkpoint, *rest = _unpack(_HELLO, body)
    hash_, model, sample, target, result, parameters, nodes, batch, payload = rest
    return Hello(
        continued=bool(continued),
        model_runs=model_status == 0,
        boot_checkpoint=checkpoint,
        model_hash=hash_,
        model_bytes=model,
        input_bytes=sample,
        target_bytes=target,
        output_bytes=result,
        parameters=parameters,
        nodes=nodes,
        batch_capacity=batch,
        max_payload=payload,
        progress=unpack_progress(body, _HELLO.size),
        message=body[_HELLO.size + _PROGRESS.size :].decode("utf-8", "replace"),
    )


def unpack_progress(body: bytes, offset: int = 0) -> TrainingProgress:
    """Return the progress at ``offset``."""
    return TrainingProgress(*_unpack(_PROGRESS, body, offset))


def unpack_totals(body: bytes, offset: int = 0) -> StepTotals:
    """Return the totals of a step at ``offset``: the answer to END_BATCH, and that of a request in work."""
    return StepTotals(*_unpack(_TOTALS, body, offset))


def unpack_metrics(body: bytes) -> Metrics:
    """Return the answer to METRICS."""
    at = _PROGRESS.size + _TOTALS.size
    return Metrics(unpack_progress(body), unpack_totals(body, _PROGRESS.size), *_unpack(_METRICS, body, at))


def unpack_evaluation(body: bytes) -> Evaluation:
    """Return the answer to EVALUATE."""
    return Evaluation(*_unpack(_EVALUATION, body))


def unpack_parameter(body: bytes) -> ParameterInfo:
    """Return the answer to PARAMETER."""
    kind, exact, *rest = _unpack(_PARAMETER, body)
    return ParameterInfo(kind, bool(exact), *rest)


def pack_schedule(
    *,
    run: int,
    step: int,
    seed: int,
    antithetic: bool,
    exact: Exact,
    head_rate: float,
    accumulate: bool,
    groups: list[Group],
    batch: int,
) -> bytes:
    """Return the payload of SET_SCHEDULE."""
    head = _SCHEDULE.pack(run, step, batch, seed & 0xFFFFFFFF, antithetic, exact, accumulate, head_rate, len(groups))
    return head + b"".join(_GROUP.pack(g.mode, g.queries, g.first, g.last) for g in groups)
