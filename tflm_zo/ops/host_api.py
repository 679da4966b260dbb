# SPDX-License-Identifier: Apache-2.0
# Written by tools/generate_layouts.py from the C++ headers named below: change those, and run it again.
"""Functions of the compiled ops on a host."""

import enum
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_uint16, c_uint32, c_void_p
from typing import Annotated, Any

from tflm_zo.ops.layouts import ScheduleSettings
from tflm_zo.ops.native import I32, Address, Prototypes, Structure

# kernels/host_api.h

# kernels/host_check.h


class TrainingOpKind(enum.IntEnum):
    """``TrainingOpKind`` of ``kernels/host_check.h``."""

    PARAMETERS = 0
    NODE = 1
    LOSS = 2


class CheckedType(enum.IntEnum):
    """``CheckedType`` of ``kernels/host_check.h``."""

    OTHER = 0
    FLOAT32 = 1
    INT32 = 2
    UINT8 = 3
    INT16 = 7
    INT8 = 9


class CheckedTensor(Structure):
    """``CheckedTensor`` of ``kernels/host_check.h``."""

    type: I32
    elements: I32


class CheckedOp(Structure):
    """``CheckedOp`` of ``kernels/host_check.h``."""

    kind: I32
    tensors: Annotated[Any, POINTER(CheckedTensor)]
    tensor_count: I32
    inputs: Annotated[Any, POINTER(c_int32)]
    input_count: I32
    outputs: Annotated[Any, POINTER(c_int32)]
    output_count: I32
    options: Address
    option_bytes: I32


PROTOTYPES: Prototypes = {
    "tflm_zo_parameter": (c_int, [c_void_p, c_int, c_void_p, c_void_p]),
    "tflm_zo_restore_clean": (None, [c_void_p]),
    "tflm_zo_configure": (c_int, [c_void_p, c_int, c_int, c_float, c_uint16, c_uint16]),
    "tflm_zo_configure_node": (c_int, [c_void_p, c_int, c_int, c_int, c_float, c_uint16, c_uint16]),
    "tflm_zo_write_parameter": (c_int, [c_void_p, c_int, c_void_p, c_int]),
    "tflm_zo_recalibrate": (c_int, [c_void_p, c_void_p, c_int, c_void_p, c_int64, c_uint32]),
    "tflm_zo_moments": (c_void_p, [c_void_p, c_int]),
    "tflm_zo_limit_before_head": (c_double, [c_double]),
    "tflm_zo_exact_rates": (None, [c_double, c_double, c_double, c_void_p]),
    "tflm_zo_schedule_valid": (c_int, [POINTER(ScheduleSettings), c_int]),
    "tflm_zo_schedule_new": (c_void_p, [POINTER(ScheduleSettings)]),
    "tflm_zo_schedule_free": (None, [c_void_p]),
    "tflm_zo_schedule_begin": (None, [c_void_p, c_uint32, c_int, c_float]),
    "tflm_zo_schedule_next": (c_int, [c_void_p, c_void_p, c_void_p]),
    "tflm_zo_schedule_step": (c_int, [c_void_p, c_uint32, c_int, c_float, c_void_p, c_void_p, c_int]),
    "tflm_zo_schedule_flush": (c_int, [c_void_p, c_void_p]),
    "tflm_zo_check_op": (c_int, [POINTER(CheckedOp), c_char_p, c_int]),
}
