# SPDX-License-Identifier: Apache-2.0
"""MEAN and SUM of int8 codes as TFLM of 2023/24 computes them, as the host does, and as a convolution can.

The old kernels scale in single precision; a MEAN whose input and output have the same quantization is cut off, not
rounded. The host's use fixed point. Both see nothing of the codes but their sum, and there are few sums, so all of
them are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tflm_zo.model.graph import Graph, Operator
from tflm_zo.model.quantization import INT8_MAX, INT8_MIN
from tflm_zo.simulator.code_tables import rescale
from tflm_zo.simulator.fixed_point import mean_multiplier, quantize_multiplier

# Sums above are not compared: no layer that a board can run has as many inputs for one output.
_MOST_CODES = 1 << 16
_LARGEST_WEIGHT, _SMALLEST_WEIGHT = 127, 64
_BIASES = sorted(range(-64, 65), key=abs)  # what is added to the bias that should do


class MeanWeights(NamedTuple):
    """A depthwise convolution that computes a mean: the code of all its weights and their scale, and its bias."""

    weight: int
    scale: np.float32
    bias: int
    bias_scale: np.float32


def reduction_differs(graph: Graph, operator: Operator) -> bool:
    """Whether some sum becomes another code in the old kernels of MEAN or SUM than on the host.

    The board's compiler may fuse a multiplication and an addition to one rounding, or not: either must give the
    host's code. False for tensors that are not int8.
    """
    x, y = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
    if x.type != "INT8" or x.scales.size != 1 or y.scales.size != 1:
        return False
    count = x.sample_size // max(y.sample_size, 1)
    if count > _MOST_CODES:
        return True
    mean = operator.name == "MEAN"
    sums = np.arange(INT8_MIN * count, INT8_MAX * count + 1)
    ratio = mean_multiplier(x.scale, y.scale, count) if mean else quantize_multiplier(float(x.scale) / float(y.scale))
    host = _clipped(rescale(sums - x.zero_point * count, ratio) + y.zero_point)
    if mean and x.scale == y.scale and x.zero_point == y.zero_point:
        return not np.array_equal(host, np.trunc(sums / count))
    scale = np.float32(x.scale / y.scale)
    factor = np.float32(1) if mean else np.float32(count)
    bias = np.float32(np.float32(-x.zero_point) * scale) * factor
    values = sums.astype(np.float32) / np.float32(count) if mean else sums.astype(np.float32)
    return any(not np.array_equal(host, _clipped(v + y.zero_point)) for v in _rounded(values, scale, bias))


def mean_weights(graph: Graph, operator: Operator) -> MeanWeights | None:
    """Return the depthwise convolution that gives the host's code for every sum of a MEAN's inputs, None if none does.

    Both scale by a fixed-point number and round twice, but the first rounding is coarser in the host's MEAN: by half
    a step of it a mean is rounded up earlier. The bias adds that; where sums are negative, too, no bias can.
    """
    x, y = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
    count = x.sample_size // max(y.sample_size, 1)
    ratio = mean_multiplier(x.scale, y.scale, count)
    if count > _MOST_CODES or ratio.significand == 0:
        return None
    sums = np.arange(INT8_MIN * count, INT8_MAX * count + 1) - x.zero_point * count
    host = _clipped(rescale(sums, ratio) + y.zero_point)
    step = 2.0 ** (31 - ratio.left_shift) / ratio.significand  # sums for one unit after the first rounding
    real = ratio.significand * 2.0 ** (ratio.left_shift - ratio.right_shift - 31)
    # Codes never fall where sums rise: codes that are equal on both sides of each rise are equal everywhere.
    rises = np.flatnonzero(np.diff(host))
    ends = np.unique([0, *rises, *(rises + 1), sums.size - 1])
    sums, host = sums[ends], host[ends]
    for weight in range(_LARGEST_WEIGHT, _SMALLEST_WEIGHT - 1, -1):
        scale = np.float32(real / weight * float(y.scale) / float(x.scale))
        multiplier = quantize_multiplier(float(x.scale) * float(scale) / float(y.scale))
        for more in _BIASES:
            bias = round(weight * step / 2) + more
            if np.array_equal(host, _clipped(rescale(weight * sums + bias, multiplier) + y.zero_point)):
                return MeanWeights(weight, scale, bias, np.float32(x.scale * scale))
    return None


def _rounded(values: np.ndarray, scale: np.float32, bias: np.float32) -> Iterator[np.ndarray]:
    """values * scale + bias to the nearest whole number, halves away from zero: with two roundings, and fused."""
    exact = values.astype(np.longdouble) * scale + bias
    for sums in (values * scale + bias, exact.astype(np.float32)):
        yield np.copysign(np.floor(np.abs(sums) + np.float32(0.5)), sums).astype(np.int64)


def _clipped(codes: np.ndarray) -> np.ndarray:
    return np.clip(codes, INT8_MIN, INT8_MAX)
