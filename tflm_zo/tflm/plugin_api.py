# SPDX-License-Identifier: Apache-2.0
# Written by tools/generate_layouts.py from the C++ headers named below: change those, and run it again.
"""Functions of the plugin for TFLM's wheel."""

from ctypes import c_void_p

from tflm_zo.ops.native import Prototypes

# kernels/host_plugin.h

PROTOTYPES: Prototypes = {
    "tflm_zo_take_state": (c_void_p, []),
}
