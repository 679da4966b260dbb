# SPDX-License-Identifier: Apache-2.0
"""What CMSIS-NN's kernels take of the arena beside the reference kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tflm_zo.model.file import schema, shape_of

# Kernel data that CMSIS-NN's variants of the kernels add on 32-bit targets.
EXTRA_KERNEL_DATA = {
    "CONV_2D": 4, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 24, "AVERAGE_POOL_2D": 4, "MAX_POOL_2D": 4,
    "SOFTMAX": 8,
}  # fmt: skip


# CMSIS-NN's scratch memory with the DSP extension: CMSIS-NN's documentation of its get_buffer_size functions. The
# general convolution unrolls two columns to int16, the fast 1x1 one likewise; a depthwise convolution one column,
# but none where it is 3x3 with a padding of at most one.


def _conv_scratch(operator: Any, inputs: Sequence[Any], output: Any) -> int:
    options = operator.builtinOptions
    _, height, width, channels = shape_of(inputs[1])
    strides_one = options.strideH == 1 and options.strideW == 1
    undilated = options.dilationHFactor == 1 and options.dilationWFactor == 1
    if height == 1 and width == 1 and undilated:
        return 2 * channels * 2 if strides_one else 0
    columns = height * width * channels
    return 2 * 2 * (-(-columns // 4) * 4)


def _depthwise_scratch(operator: Any, inputs: Sequence[Any], output: Any) -> int:
    options = operator.builtinOptions
    _, height, width, channels = shape_of(inputs[1])
    _, rows, columns, depth = shape_of(inputs[0])
    if depth != channels or options.dilationHFactor != 1 or options.dilationWFactor != 1:
        return 0
    _, out_rows, out_columns, _ = shape_of(output)
    pad_rows = _padding(options, rows, out_rows, height, options.strideH)
    pad_columns = _padding(options, columns, out_columns, width, options.strideW)
    if height == 3 and width == 3 and pad_rows <= 1 and pad_columns <= 1:
        return 0
    return 2 * channels * height * width


def _padding(options: Any, length: int, out: int, kernel: int, stride: int) -> int:
    if options.padding == schema.Padding.VALID:
        return 0
    return max(0, (out - 1) * stride + kernel - length) // 2


def _average_pool_scratch(operator: Any, inputs: Sequence[Any], output: Any) -> int:
    return 4 * shape_of(inputs[0])[-1]


# Each function returns bytes of scratch memory for an operator, its input tensors and its output tensor.
SCRATCH: dict[str, Callable[[Any, Sequence[Any], Any], int]] = {
    "CONV_2D": _conv_scratch,
    "DEPTHWISE_CONV_2D": _depthwise_scratch,
    "AVERAGE_POOL_2D": _average_pool_scratch,
}


# CMSIS-NN of the Arduino libraries (2023): its 1x1 convolution needs no scratch memory but only takes strides of one,
# and its 3x3 depthwise convolution is not yet one that needs none.


def _arduino_conv_scratch(operator: Any, inputs: Sequence[Any], output: Any) -> int:
    options = operator.builtinOptions
    _, height, width, channels = shape_of(inputs[1])
    steps = (options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor)
    if height == 1 and width == 1 and steps == (1, 1, 1, 1):
        return 0
    return 2 * 2 * height * width * channels


def _arduino_depthwise_scratch(operator: Any, inputs: Sequence[Any], output: Any) -> int:
    options = operator.builtinOptions
    _, height, width, channels = shape_of(inputs[1])
    same_depth = shape_of(inputs[0])[-1] == channels
    if not same_depth or options.dilationHFactor != 1 or options.dilationWFactor != 1:
        return 0
    return 2 * channels * height * width


ARDUINO_SCRATCH = SCRATCH | {
    "CONV_2D": _arduino_conv_scratch,
    "DEPTHWISE_CONV_2D": _arduino_depthwise_scratch,
}
