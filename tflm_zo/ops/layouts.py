# SPDX-License-Identifier: Apache-2.0
# Written by tools/generate_layouts.py from the C++ headers named below: change those, and run it again.
"""Structures, enumerations and constants that drive the training ops."""

import enum
from ctypes import Array, c_float, c_uint32
from typing import Annotated

from tflm_zo.ops.native import F32, I32, I64, U16, U32, Structure

# kernels/random.h
GOLDEN_RATIO = 0x9E3779B9


class Stream(enum.IntEnum):
    """``Stream`` of ``kernels/random.h``."""

    STEP = 1
    WEIGHT_DIRECTION = 2
    UPDATE_ROUNDING = 3
    HEAD_ROUNDING = 4
    NODE_DIRECTION = 5
    NODE_ROUNDING = 6
    MASK = 7
    SHUFFLE = 8


# kernels/mask.h


class MaskKind(enum.IntEnum):
    """``MaskKind`` of ``kernels/mask.h``."""

    NO_MASK = 0
    RANDOM_CHANNELS = 2


class Mask(Structure):
    """``Mask`` of ``kernels/mask.h``."""

    kind: U16
    level: U16


# kernels/session.h
COMMAND_MAGIC = 0x5A4F434D
REPORT_MAGIC = 0x5A4F5245
MAX_QUERIES = 64


class Action(enum.IntFlag):
    """``Action`` of ``kernels/session.h``."""

    INITIALISE = 1 << 0
    UPDATE = 1 << 1
    FORWARD_DIFFERENCE = 1 << 2
    CLEAR_LOSSES = 1 << 3
    LOSS = 1 << 4
    ACCUMULATE = 1 << 5
    HEAD_UPDATE = 1 << 6
    NODE_UPDATE = 1 << 7
    NODE_APPLY = 1 << 8
    NODE_BEGIN = 1 << 9
    MEASURE = 1 << 10


class Command(Structure):
    """``Command`` of ``kernels/session.h``."""

    magic: U32
    actions: U32
    sign: I32
    seed: U32
    query: I32
    first: I32
    last: I32
    node_first: I32
    node_last: I32
    update_seed: U32
    update_queries: I32
    update_first: I32
    update_last: I32
    update_scale: F32
    update_rate: F32
    head_rate: F32
    head_seed: U32
    node_rate: F32
    reserved: Annotated[Array[c_uint32], c_uint32 * 2]


COMMAND_WORDS = 20


class Setting(Structure):
    """``Setting`` of ``kernels/session.h``."""

    sigma: I32
    rate: F32
    mask: Mask


class NodeSetting(Structure):
    """``NodeSetting`` of ``kernels/session.h``."""

    sigma: I32
    block: I32
    rate: F32
    mask: Mask


class Session(Structure):
    """``Session`` of ``kernels/session.h``."""

    magic: U32
    sign: I32
    seed: U32
    query: I32
    first: I32
    last: I32
    parameter_count: I32
    actions: U32
    node_first: I32
    node_last: I32
    update_first: I32
    update_last: I32
    update_seed: U32
    update_queries: I32
    node_rate: F32
    head_rate: F32
    head_seed: U32
    layer_energy: F32
    base_loss: F32
    state_address: Annotated[Array[c_uint32], c_uint32 * 2]
    losses: Annotated[Array[c_float], c_float * 64]


SESSION_WORDS = 85


class Report(Structure):
    """``Report`` of ``kernels/session.h``."""

    magic: U32
    loss: F32
    prediction: I32
    feature_energy: F32
    state_address: Annotated[Array[c_uint32], c_uint32 * 2]
    gradient_energy: F32
    layer_energy: F32


REPORT_WORDS = 8

# kernels/parameter_op.h
PARAMETER_OP_NAME = "TFLM_ZO_PARAMETERS"


class ParameterInput(enum.IntEnum):
    """``ParameterInput`` of ``kernels/parameter_op.h``."""

    COMMAND = 0
    SESSION = 1


PARAMETER_STATE_WORDS = 3

# kernels/node_op.h
NODE_OP_NAME = "TFLM_ZO_NODE"


class NodeInput(enum.IntEnum):
    """``NodeInput`` of ``kernels/node_op.h``."""

    SESSION = 0
    LAYER_INPUT = 1
    LAYER_OUTPUT = 2
    WEIGHTS = 3
    INITIAL_WEIGHTS = 4
    BIAS = 5
    INITIAL_BIAS = 6
    FEATURE_GRADIENT = 7
    ACCUMULATOR = 8
    REPORT = 9


NODE_STATE_WORDS = 2

# kernels/loss_op.h
LOSS_OP_NAME = "TFLM_ZO_LOSS"


class LossInput(enum.IntEnum):
    """``LossInput`` of ``kernels/loss_op.h``."""

    LOGITS = 0
    TARGET = 1
    SESSION = 2
    FEATURES = 3
    HEAD_WEIGHTS = 4
    HEAD_BIAS = 5
    RESIDUAL = 6
    MEAN_PREDICTION = 7


class LossOutput(enum.IntEnum):
    """``LossOutput`` of ``kernels/loss_op.h``."""

    REPORT = 0
    FEATURE_GRADIENT = 1


LOSS_STATE_WORDS = 2

# kernels/momentum.h
MOMENTUM_WORDS = 2

# kernels/schedule.h
MAX_GROUPS = 63


class GroupMode(enum.IntEnum):
    """``GroupMode`` of ``kernels/schedule.h``."""

    BATCH_DIRECTIONS = 0
    SAMPLE_DIRECTIONS = 1
    NODES = 2


class Exact(enum.IntEnum):
    """``Exact`` of ``kernels/schedule.h``."""

    NOTHING = 0
    ALL = 1
    BEFORE_HEAD = 2


class ScheduleGroup(Structure):
    """``ScheduleGroup`` of ``kernels/schedule.h``."""

    mode: I32
    first: I32
    last: I32
    queries: I32


class ScheduleSettings(Structure):
    """``ScheduleSettings`` of ``kernels/schedule.h``."""

    seed: U32
    antithetic: I32
    exact: I32
    head_rate: F32
    accumulate: I32
    group_count: I32
    groups: Annotated[Array[ScheduleGroup], ScheduleGroup * 63]


# kernels/recalibrate.h
ADAPTER_UNIT = 32


class ChannelSum(Structure):
    """``ChannelSum`` of ``kernels/recalibrate.h``."""

    sum: I64
    squares: I64


class RecalibrationStatus(enum.IntEnum):
    """``RecalibrationStatus`` of ``kernels/recalibrate.h``."""

    OK = 0
    NO_REFERENCE = 1
    OTHER_CHANNELS = 2
    TOO_FEW_SAMPLES = 3


LEAST_RECALIBRATION_SAMPLES = 2

# micro_app/src/app/model_runtime.h


class ModelInput(enum.IntEnum):
    """``ModelInput`` of ``micro_app/src/app/model_runtime.h``."""

    SAMPLE_INPUT = 0
    COMMAND_INPUT_TENSOR = 1
    TARGET_INPUT = 2


class ModelOutput(enum.IntEnum):
    """``ModelOutput`` of ``micro_app/src/app/model_runtime.h``."""

    RESULT_OUTPUT = 0
    REPORT_OUTPUT = 1


MOST_KEPT_TENSORS = 2
