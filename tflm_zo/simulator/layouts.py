# SPDX-License-Identifier: Apache-2.0
# Written by tools/generate_layouts.py from the C++ headers named below: change those, and run it again.
"""Structures, enumerations, constants and functions of the simulator's library."""

import enum
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_void_p
from typing import Annotated, Any

from tflm_zo.ops.native import I32, I64, Address, Bytes, Prototypes, Structure

# kernels/sim/kernels.h
ADD_HEADROOM_BITS = 20


class InstructionSet(enum.IntEnum):
    """``InstructionSet`` of ``kernels/sim/kernels.h``."""

    AUTO = 0
    PORTABLE = 1
    AVX2 = 2
    AVX512_VNNI = 3
    NEON = 4


# kernels/sim/lookup.h
LOGISTIC_FRACTION_BITS = 27

# kernels/sim/softmax.h
SOFTMAX_DIFF_FRACTION_BITS = 26

# kernels/sim/op_host.h


class ElementType(enum.IntEnum):
    """``ElementType`` of ``kernels/sim/op_host.h``."""

    INT8 = 0
    INT32 = 1
    FLOAT32 = 2


# kernels/sim/sim_api.h


class Window(Structure):
    """``TflmZoSimWindow`` of ``kernels/sim/sim_api.h``."""

    input_height: I32
    input_width: I32
    channels: I32
    kernel_height: I32
    kernel_width: I32
    stride_height: I32
    stride_width: I32
    dilation_height: I32
    dilation_width: I32
    pad_top: I32
    pad_left: I32
    output_height: I32
    output_width: I32


class Quantization(Structure):
    """``TflmZoSimQuantization`` of ``kernels/sim/sim_api.h``."""

    multiplier: Annotated[Any, POINTER(c_int32)]
    left_shift: Annotated[Any, POINTER(c_int32)]
    right_shift: Annotated[Any, POINTER(c_int32)]
    input_zero_point: I32
    output_zero_point: I32
    activation_min: I32
    activation_max: I32


class AddParams(Structure):
    """``TflmZoSimAddParams`` of ``kernels/sim/sim_api.h``."""

    first_zero_point: I32
    first_multiplier: I32
    first_right_shift: I32
    second_zero_point: I32
    second_multiplier: I32
    second_right_shift: I32
    output_multiplier: I32
    output_right_shift: I32
    output_zero_point: I32
    activation_min: I32
    activation_max: I32


class MeanParams(Structure):
    """``TflmZoSimMeanParams`` of ``kernels/sim/sim_api.h``."""

    outer: I32
    count: I32
    inner: I32
    input_zero_point: I32
    multiplier: I32
    left_shift: I32
    right_shift: I32
    output_zero_point: I32


class ProductParams(Structure):
    """``TflmZoSimProductParams`` of ``kernels/sim/sim_api.h``."""

    first_zero_point: I32
    second_zero_point: I32
    multiplier: I32
    left_shift: I32
    right_shift: I32
    output_zero_point: I32
    activation_min: I32
    activation_max: I32


class Operand(Structure):
    """``TflmZoSimOperand`` of ``kernels/sim/sim_api.h``."""

    tensor: I32
    constant: Address
    places: Annotated[Any, POINTER(c_int32)]


class RequantizeParams(Structure):
    """``TflmZoSimRequantizeParams`` of ``kernels/sim/sim_api.h``."""

    input_zero_point: I32
    multiplier: I32
    left_shift: I32
    right_shift: I32
    output_zero_point: I32


class LogisticParams(Structure):
    """``TflmZoSimLogisticParams`` of ``kernels/sim/sim_api.h``."""

    input_zero_point: I32
    radius: I32
    multiplier: I32
    left_shift: I32


class MatmulParams(Structure):
    """``TflmZoSimMatmulParams`` of ``kernels/sim/sim_api.h``."""

    batches: I32
    rows: I32
    columns: I32
    depth: I32
    left_zero_point: I32
    right_zero_point: I32
    multiplier: I32
    left_shift: I32
    right_shift: I32
    output_zero_point: I32


class LstmParams(Structure):
    """``TflmZoSimLstmParams`` of ``kernels/sim/sim_api.h``."""

    steps: I32
    inputs: I32
    units: I32
    input_zero_point: I32
    hidden_zero_point: I32
    cell_clip: I32


# kernels/sim/train_api.h


class TrainingTensor(Structure):
    """``TflmZoSimTrainingTensor`` of ``kernels/sim/train_api.h``."""

    type: I32
    elements: I32
    data: Address


class TrainingOp(Structure):
    """``TflmZoSimTrainingOp`` of ``kernels/sim/train_api.h``."""

    inputs: Annotated[Any, POINTER(c_int32)]
    input_count: I32
    outputs: Annotated[Any, POINTER(c_int32)]
    output_count: I32
    options: Bytes
    option_bytes: I64


class TrainingParameter(Structure):
    """``TflmZoSimTrainingParameter`` of ``kernels/sim/train_api.h``."""

    first_layer: I32
    last_layer: I32


class TrainingNode(Structure):
    """``TflmZoSimTrainingNode`` of ``kernels/sim/train_api.h``."""

    op: TrainingOp
    number: I32
    layer: I32
    first_change: I32
    input: I32
    output: I32
    closed_form: I32
    accumulates: I32


class Training(Structure):
    """``TflmZoSimTraining`` of ``kernels/sim/train_api.h``."""

    tensors: Annotated[Any, POINTER(TrainingTensor)]
    tensor_count: I32
    parameter_op: TrainingOp
    loss_op: TrainingOp
    parameters: Annotated[Any, POINTER(TrainingParameter)]
    parameter_count: I32
    nodes: Annotated[Any, POINTER(TrainingNode)]
    node_count: I32
    layers: I32
    head_layer: I32
    command: I32
    target: I32
    report: I32
    input: I32
    logits: I32
    features: I32
    output: I32


PROTOTYPES: Prototypes = {
    "tflm_zo_sim_create": (c_void_p, [c_void_p, c_int32, c_int32]),
    "tflm_zo_sim_destroy": (None, [c_void_p]),
    "tflm_zo_sim_error": (c_char_p, [c_void_p]),
    "tflm_zo_sim_instruction_set": (c_int32, [c_void_p]),
    "tflm_zo_sim_add_conv": (
        c_int32,
        [c_void_p, c_int32, c_int32, POINTER(Window), c_int32, c_int32, c_void_p, c_void_p, POINTER(Quantization)],
    ),
    "tflm_zo_sim_add_depthwise": (
        c_int32,
        [c_void_p, c_int32, c_int32, POINTER(Window), c_int32, c_void_p, c_void_p, POINTER(Quantization)],
    ),
    "tflm_zo_sim_add_average_pool": (c_int32, [c_void_p, c_int32, c_int32, POINTER(Window), c_int32, c_int32]),
    "tflm_zo_sim_add_max_pool": (c_int32, [c_void_p, c_int32, c_int32, POINTER(Window), c_int32, c_int32]),
    "tflm_zo_sim_add_mean": (c_int32, [c_void_p, c_int32, c_int32, POINTER(MeanParams)]),
    "tflm_zo_sim_add_add": (c_int32, [c_void_p, c_int32, c_int32, c_int32, POINTER(AddParams)]),
    "tflm_zo_sim_add_sum": (
        c_int32,
        [c_void_p, POINTER(Operand), POINTER(Operand), c_int32, POINTER(AddParams), c_int32],
    ),
    "tflm_zo_sim_add_product": (
        c_int32,
        [c_void_p, POINTER(Operand), POINTER(Operand), c_int32, POINTER(ProductParams)],
    ),
    "tflm_zo_sim_add_requantize": (c_int32, [c_void_p, c_int32, c_int32, POINTER(RequantizeParams)]),
    "tflm_zo_sim_add_logistic": (c_int32, [c_void_p, c_int32, c_int32, POINTER(LogisticParams)]),
    "tflm_zo_sim_add_tanh": (c_int32, [c_void_p, c_int32, c_int32, POINTER(LogisticParams)]),
    "tflm_zo_sim_add_lookup": (c_int32, [c_void_p, c_int32, c_int32, c_void_p]),
    "tflm_zo_sim_add_pairs": (c_int32, [c_void_p, POINTER(Operand), POINTER(Operand), c_int32, c_void_p]),
    "tflm_zo_sim_add_gather": (c_int32, [c_void_p, c_void_p, c_int32, c_int32, c_void_p, c_void_p]),
    "tflm_zo_sim_add_extremum": (c_int32, [c_void_p, c_int32, c_int32, c_void_p, c_int32, c_int32]),
    "tflm_zo_sim_add_softmax": (c_int32, [c_void_p, c_int32, c_int32, c_int32, c_int32, c_int32, c_int32]),
    "tflm_zo_sim_add_matmul": (c_int32, [c_void_p, POINTER(Operand), POINTER(Operand), c_int32, POINTER(MatmulParams)]),
    "tflm_zo_sim_add_transpose_conv": (
        c_int32,
        [c_void_p, c_int32, c_int32, POINTER(Window), c_int32, c_void_p, c_void_p, POINTER(Quantization)],
    ),
    "tflm_zo_sim_add_blend": (c_int32, [c_void_p, c_int32, c_int32, c_void_p, c_void_p]),
    "tflm_zo_sim_add_lstm": (
        c_int32,
        [c_void_p, c_int32, c_int32, POINTER(LstmParams), c_void_p, c_void_p, c_void_p, c_void_p],
    ),
    "tflm_zo_sim_add_reshape": (c_int32, [c_void_p, c_int32, c_int32]),
    "tflm_zo_sim_finish": (c_int32, [c_void_p]),
    "tflm_zo_sim_run": (c_int32, [c_void_p, c_int32, c_int32, c_int64, c_void_p, c_void_p, c_int32, c_int32, c_void_p]),
    "tflm_zo_sim_trainer_create": (c_void_p, [c_void_p, POINTER(Training)]),
    "tflm_zo_sim_trainer_destroy": (None, [c_void_p]),
    "tflm_zo_sim_trainer_error": (c_char_p, [c_void_p]),
    "tflm_zo_sim_trainer_state": (c_void_p, [c_void_p]),
    "tflm_zo_sim_samples_create": (c_void_p, [c_void_p, c_void_p, c_void_p, c_int64, c_int32]),
    "tflm_zo_sim_samples_destroy": (None, [c_void_p]),
    "tflm_zo_sim_trainer_run": (c_int32, [c_void_p, c_void_p, c_void_p, c_void_p, c_int32, c_void_p, c_void_p]),
}
