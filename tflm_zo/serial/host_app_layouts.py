# SPDX-License-Identifier: Apache-2.0
# Written by tools/generate_layouts.py from the C++ headers named below: change those, and run it again.
"""Structures and functions of the app on the host."""

from ctypes import CFUNCTYPE, POINTER, Array, c_int32, c_void_p
from typing import Annotated, Any

from tflm_zo.ops.native import I32, U32, U64, Address, Prototypes, Structure

# micro_app/host/host_app.h


class Tensor(Structure):
    """``TflmZoTensor`` of ``micro_app/host/host_app.h``."""

    data: Address
    bytes: U32
    is_int8: I32


Invoke = CFUNCTYPE(c_int32)
Show = CFUNCTYPE(None, c_int32)


class HostConfig(Structure):
    """``TflmZoHostConfig`` of ``micro_app/host/host_app.h``."""

    line: I32
    flash: Address
    flash_bytes: U32
    page_bytes: U32
    model: Address
    model_bytes: U32
    model_hash: U64
    batch_bytes: U32
    frame_bytes: U32
    sums: Address
    channels: U32
    inputs: Annotated[Array[Tensor], Tensor * 4]
    outputs: Annotated[Array[Tensor], Tensor * 2]
    invoke: Annotated[Any, Invoke]
    state: Address
    frozen_input: Annotated[Array[Tensor], Tensor * 1]
    frozen_outputs: Annotated[Array[Tensor], Tensor * 2]
    invoke_frozen: Annotated[Any, Invoke]
    show: Annotated[Any, Show]


PROTOTYPES: Prototypes = {
    "tflm_zo_app_new": (c_void_p, [POINTER(HostConfig)]),
    "tflm_zo_app_free": (None, [c_void_p]),
    "tflm_zo_app_start": (c_int32, [c_void_p]),
    "tflm_zo_app_model_status": (c_int32, [c_void_p]),
    "tflm_zo_app_poll": (c_int32, [c_void_p]),
}
