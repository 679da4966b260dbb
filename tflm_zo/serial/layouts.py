# SPDX-License-Identifier: Apache-2.0
# Written by tools/generate_layouts.py from the C++ headers named below: change those, and run it again.
"""Frames and messages of the serial protocol."""

import enum

from tflm_zo.board.layouts import TrainingProgress
from tflm_zo.ops.layouts import Mask
from tflm_zo.ops.native import F32, I32, U8, U16, U32, U64, Structure

# micro_app/src/app/framing.h
FRAME_VERSION = 1


class FrameHeader(Structure):
    """``FrameHeader`` of ``micro_app/src/app/framing.h``."""

    version: U8
    type: U8
    sequence: U16
    payload_size: U32


FRAME_HEADER_SIZE = 8
FRAME_CRC_SIZE = 4
FRAME_OVERHEAD = 12
LONGEST_RUN = 254

# micro_app/src/app/hal.h


class LedState(enum.IntEnum):
    """``LedState`` of ``micro_app/src/app/hal.h``."""

    IDLE = 0
    INFERRING = 1
    TRAINING = 2
    SAVING = 3
    ERROR = 4


# micro_app/src/app/trainer_status.h


class TrainerStatus(enum.IntEnum):
    """``TrainerStatus`` of ``micro_app/src/app/trainer_status.h``."""

    OK = 0
    NOT_PATCHED = 1
    OTHER_VERSION = 2
    NOT_STARTED = 3
    PASS_FAILED = 4
    NO_PASS = 5
    BAD_PARAMETER = 6
    BAD_SETTINGS = 7
    NO_REFERENCE = 8
    TOO_FEW_SAMPLES = 9


# micro_app/src/app/messages.h
MESSAGE_VERSION = 3


class Request(enum.IntEnum):
    """``Request`` of ``micro_app/src/app/messages.h``."""

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


ANSWER_BIT = 0x80


class AnswerStatus(enum.IntEnum):
    """``AnswerStatus`` of ``micro_app/src/app/messages.h``."""

    OK = 0
    IN_WORK = 1
    UNKNOWN_REQUEST = 2
    BAD_REQUEST = 3
    NO_SESSION = 4
    OUT_OF_SEQUENCE = 5
    MODEL = 6
    STORAGE = 7


# micro_app/src/app/message_layouts.h


class HelloRequest(Structure):
    """``HelloRequest`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    session: U32


class HelloAnswer(Structure):
    """``HelloAnswer`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    version: U16
    continued: U8
    model_status: U8
    boot_status: U8
    boot_checkpoint: U32
    model_hash: U64
    model_bytes: U32
    input_bytes: U32
    target_bytes: U32
    output_bytes: U32
    parameters: U16
    nodes: U16
    batch_capacity: U16
    max_payload: U32
    progress: TrainingProgress


class ParameterRequest(Structure):
    """``ParameterRequest`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    index: U16


class ParameterAnswer(Structure):
    """``ParameterAnswer`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    kind: U8
    exact: U8
    layer: I32
    count: U32
    headroom: I32
    moments: U32


class StepTotals(Structure):
    """``StepTotals`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    passes: U32
    loss: F32
    right: U32


class MetricsAnswer(Structure):
    """``MetricsAnswer`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    progress: TrainingProgress
    last_step: StepTotals
    passes: U32
    pass_micros: U32
    damaged_frames: U32
    frozen_runs: U32


class ReadModelRequest(Structure):
    """``ReadModelRequest`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    offset: U32
    size: U16


class PieceRequest(Structure):
    """``PieceRequest`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    offset: U32


class InferAnswer(Structure):
    """``InferAnswer`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    prediction: I32


class EvaluateAnswer(Structure):
    """``EvaluateAnswer`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    prediction: I32
    loss: F32
    feature_energy: F32


class StepRequest(Structure):
    """``StepRequest`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    step: U32
    rate_scale: F32


class BatchAnswer(Structure):
    """``BatchAnswer`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    samples: U16


class PassesAnswer(Structure):
    """``PassesAnswer`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    passes: U32


class ChannelsAnswer(Structure):
    """``ChannelsAnswer`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    channels: U32


class ObservedAnswer(Structure):
    """``ObservedAnswer`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    samples: U32


class GroupFields(Structure):
    """``GroupFields`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    mode: U8
    queries: U8
    first: U16
    last: U16


class ScheduleRequest(Structure):
    """``ScheduleRequest`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    run: U32
    step: U32
    largest_batch: U16
    seed: U32
    antithetic: U8
    exact: U8
    accumulate: U8
    head_rate: F32
    group_count: U8


class SetParameterRequest(Structure):
    """``SetParameterRequest`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    index: U16
    sigma: I32
    rate: F32
    mask: Mask


class SetNodeRequest(Structure):
    """``SetNodeRequest`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    node: U16
    sigma: I32
    block: I32
    rate: F32
    mask: Mask


class CheckpointAnswer(Structure):
    """``CheckpointAnswer`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    sequence: U32


class ReadWeightsRequest(Structure):
    """``ReadWeightsRequest`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    index: U16
    offset: U32
    size: U16


class WriteWeightsRequest(Structure):
    """``WriteWeightsRequest`` of ``micro_app/src/app/message_layouts.h``."""

    _pack_ = 1
    index: U16
    offset: U32
