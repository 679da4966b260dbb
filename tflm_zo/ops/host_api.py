# SPDX-License-Identifier: Apache-2.0
# Written by tools/generate_layouts.py from the C++ headers named below: change those, and run it again.
"""Functions of the compiled ops on a host."""

from ctypes import POINTER, c_double, c_float, c_int, c_int64, c_uint16, c_uint32, c_void_p

from tflm_zo.ops.layouts import ScheduleSettings
from tflm_zo.ops.native import Prototypes

# kernels/host_api.h

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
}
