# SPDX-License-Identifier: Apache-2.0
"""What CMSIS-NN's kernels take of the arena beside the reference kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tflm_zo.model.graph import Operator, Tensor
from tflm_zo.model.window import read_window

# Kernel data that CMSIS-NN's variants of the kernels add on 32-bit targets.
EXTRA_KERNEL_DATA = {
    "CONV_2D": 4, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 24, "AVERAGE_POOL_2D": 4, "MAX_POOL_2D": 4,
    "SOFTMAX": 8,
}  # fmt: skip


# CMSIS-NN's scratch memory with the DSP extension: CMSIS-NN's documentation of its get_buffer_size functions. The
# general convolution unrolls two columns to int16, the fast 1x1 one likewise; a depthwise convolution one column,
# but none where it is 3x3 with a padding of at most one.


def _conv_scratch(operator: Operator, inputs: Sequence[Tensor]) -> int:
    _, height, width, channels = inputs[1].shape
    window = read_window(operator, (height, width))
    if window.kernel == (1, 1) and window.dilation == (1, 1):
        return 2 * channels * 2 if window.stride == (1, 1) else 0
    columns = height * width * channels
    return 2 * 2 * (-(-columns // 4) * 4)


def _depthwise_scratch(operator: Operator, inputs: Sequence[Tensor]) -> int:
    source, weights = inputs[:2]
    _, height, width, channels = weights.shape
    window = read_window(operator, (height, width))
    if source.shape[-1] != channels or window.dilation != (1, 1):
        return 0
    geometry = window.over(*source.sample_shape)
    if window.kernel == (3, 3) and geometry.pad_top <= 1 and geometry.pad_left <= 1:
        return 0
    return 2 * channels * height * width


def _average_pool_scratch(operator: Operator, inputs: Sequence[Tensor]) -> int:
    return 4 * inputs[0].shape[-1]


# Bytes, by the operator and the tensors that it is given.
SCRATCH: dict[str, Callable[[Operator, Sequence[Tensor]], int]] = {
    "CONV_2D": _conv_scratch,
    "DEPTHWISE_CONV_2D": _depthwise_scratch,
    "AVERAGE_POOL_2D": _average_pool_scratch,
}


# CMSIS-NN of the Arduino libraries (2023): its 1x1 convolution needs no scratch memory but only takes strides of one,
# and its 3x3 depthwise convolution is not yet one that needs none.


def _arduino_conv_scratch(operator: Operator, inputs: Sequence[Tensor]) -> int:
    _, height, width, channels = inputs[1].shape
    window = read_window(operator, (height, width))
    if window.kernel == window.stride == window.dilation == (1, 1):
        return 0
    return 2 * 2 * height * width * channels


def _arduino_depthwise_scratch(operator: Operator, inputs: Sequence[Tensor]) -> int:
    _, height, width, channels = inputs[1].shape
    window = read_window(operator, (height, width))
    if inputs[0].shape[-1] != channels or window.dilation != (1, 1):
        return 0
    return 2 * channels * height * width


ARDUINO_SCRATCH = SCRATCH | {
    "CONV_2D": _arduino_conv_scratch,
    "DEPTHWISE_CONV_2D": _arduino_depthwise_scratch,
}
