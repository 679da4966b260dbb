# SPDX-License-Identifier: Apache-2.0
"""Operators on int8 codes as tables: the output code of each input code, or of each pair of them.

A table is made once for a model, with the integer and float operations of TFLite Micro's reference kernels in their
order, so looking a code up gives the kernel's result to the bit. Names of functions are those of the operators. All
return int8, (256,) for codes from -128 on, or (256, 256) by the codes of the first and the second input.
"""

from __future__ import annotations

import math

import numpy as np

from tflm_zo.model.graph import Tensor
from tflm_zo.model.quantization import INT8_MAX, INT8_MIN, round_half_away
from tflm_zo.simulator.fixed_point import Multiplier, quantize_multiplier

_CODES = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int64)
_SQUARED_DIFFERENCE_HEADROOM_BITS = 7
_RSQRT_SHIFT = 20


def _high_multiply(x: np.ndarray, significand: np.ndarray | int) -> np.ndarray:
    """round(x * significand / 2**31), ties towards +infinity; 2**62 is the one product that does not fit."""
    result: np.ndarray = np.minimum((np.asarray(x, np.int64) * significand + (1 << 30)) >> 31, 2**31 - 1)
    return result


def _shift_right(x: np.ndarray, bits: np.ndarray | int) -> np.ndarray:
    """round(x / 2**bits), ties away from zero."""
    bits = np.asarray(bits, np.int64)
    half = np.where(bits > 0, np.int64(1) << np.maximum(bits - 1, 0), 0)
    result: np.ndarray = (x + half - ((x < 0) & (bits > 0))) >> bits
    return result


def _shift_left(x: np.ndarray, bits: np.ndarray | int) -> np.ndarray:
    """x * 2**bits as an int32 that wraps around."""
    return (np.asarray(x, np.int64) << bits).astype(np.int32).astype(np.int64)


def rescale(x: np.ndarray, multiplier: Multiplier) -> np.ndarray:
    """``x`` times ``multiplier``, as int64, rounded twice as TFLite's ``MultiplyByQuantizedMultiplier``."""
    high = _high_multiply(_shift_left(x, multiplier.left_shift), multiplier.significand)
    return _shift_right(high, multiplier.right_shift)


def _int8(x: np.ndarray, low: int = INT8_MIN, high: int = INT8_MAX) -> np.ndarray:
    return np.clip(x, low, high).astype(np.int8)


def _centred(tensor: Tensor) -> np.ndarray:
    return _CODES - tensor.zero_point


def _ratio32(source: Tensor, target: Tensor) -> float:
    """The ratio of two scales, divided in single precision."""
    return float(source.scale / target.scale)


def relu(source: Tensor, target: Tensor) -> np.ndarray:
    """The table of a RELU."""
    scaled = rescale(_centred(source), quantize_multiplier(_ratio32(source, target)))
    return _int8(scaled + target.zero_point, target.zero_point)


def relu6(source: Tensor, target: Tensor) -> np.ndarray:
    """The table of a RELU6, which TFLite Micro computes on the input's scale."""
    del target
    six = source.zero_point + round_half_away(float(np.float32(6.0) / source.scale))
    return _int8(_CODES, source.zero_point, min(six, INT8_MAX))


def leaky_relu(source: Tensor, target: Tensor, alpha: float) -> np.ndarray:
    """The table of a LEAKY_RELU with slope ``alpha`` below zero."""
    x = _centred(source)
    slope = float(source.scale * np.float32(alpha) / target.scale)
    below = np.sign(slope).astype(np.int64) * rescale(x, quantize_multiplier(abs(slope)))
    above = rescale(x, quantize_multiplier(_ratio32(source, target)))
    return _int8(np.where(x >= 0, above, below) + target.zero_point)


def _int16_multiplier(real: float) -> tuple[int, int]:
    """A multiplier as an int16 significand and an exponent, negative to the right."""
    significand, left, right = quantize_multiplier(real)
    return min((significand + (1 << 15)) >> 16, 2**15 - 1), left - right


def _high_multiply16(x: np.ndarray, significand: int) -> np.ndarray:
    return (x * significand + (1 << 14)) >> 15


def _saturating_left16(x: np.ndarray, bits: int) -> np.ndarray:
    result: np.ndarray = np.clip(x << bits, -(2**15), 2**15 - 1)
    return result


def hard_swish(source: Tensor, target: Tensor) -> np.ndarray:
    """The table of a HARD_SWISH, x min(max(x + 3, 0), 6) / 6 in 16 bits; its output's scale must not be finer than
    1/128 of the input's (the multiplier's exponent is not positive)."""
    fine_scale = np.float32(1.0 / 128.0) * source.scale
    to_output, output_exponent = _int16_multiplier(float(fine_scale / target.scale))
    to_gate, gate_exponent = _int16_multiplier(float(fine_scale / np.float32(np.float32(3.0) / np.float32(32768.0))))
    x = _centred(source) << 7
    unshifted = _high_multiply16(x, to_output)
    gate = _saturating_left16(x, gate_exponent - 1) if gate_exponent > 0 else x
    gate = _high_multiply16(gate, to_gate)
    if gate_exponent > 0:
        gate = _saturating_left16(gate, 1)
    elif gate_exponent < 0:
        gate = _shift_right(gate, -gate_exponent)
    gate = (gate + (1 << 15)) >> 1
    product = gate * unshifted
    cut = np.sign(product) * (np.abs(product) >> 15)
    return _int8(_shift_right(cut, max(-output_exponent, 0)) + target.zero_point)


def elu(source: Tensor, target: Tensor) -> np.ndarray:
    """The table of an ELU, computed in single precision."""
    x = source.scale * _centred(source).astype(np.float32)
    y = np.where(x < 0, np.exp(x) - np.float32(1.0), x) * (np.float32(1.0) / target.scale)
    rounded = np.copysign(np.floor(np.abs(y.astype(np.float64)) + 0.5), y)
    return _int8((rounded + target.zero_point).astype(np.int64))


def absolute(source: Tensor, target: Tensor) -> np.ndarray:
    """The table of an ABS."""
    size = np.abs(_centred(source))
    if source.scale != target.scale:
        size = rescale(size, quantize_multiplier(_ratio32(source, target)))
    return _int8(size + target.zero_point)


def _inverse_square_root(value: int) -> tuple[int, int]:
    """1 / sqrt(value), value >= 1, as a Q0.31 significand and a left shift.

    TFLite's ``GetInvSqrtQuantizedMultiplierExp`` with its five Newton-Raphson steps in Q3.28.
    """
    if value <= 1:
        return 2**31 - 1, 0
    right = 11
    while value >= 1 << 29:
        value //= 4
        right += 1
    headroom = 31 - value.bit_length()
    left_pairs = headroom // 2 - 1
    right -= left_pairs
    value <<= 2 * left_pairs

    def multiply(a: int, b: int) -> int:
        return int(_high_multiply(np.array(a), b))

    one = 1 << 28  # Q3.28
    half = ((value >> 1) + 1) >> 1  # of the input in Q3.28
    half_three = one + (one >> 1)
    x = one
    for _ in range(5):
        cube = _saturated(multiply(multiply(x, x), x) << 6)
        x = _saturated((multiply(half_three, x) - multiply(half, cube)) << 3)
    inverse = multiply(x, 1518500250)  # sqrt(1/2) in Q0.31
    if right < 0:
        inverse <<= -right
        right = 0
    return inverse, -right


def _saturated(x: int) -> int:
    return max(-(2**31), min(2**31 - 1, x))


def _shifted(significand: int, left_shift: int) -> Multiplier:
    return Multiplier(significand, max(left_shift, 0), max(-left_shift, 0))


def rsqrt(source: Tensor, target: Tensor) -> np.ndarray:
    """The table of an RSQRT. TFLite Micro fails on codes below the zero point; they get the largest code here."""
    real = 1.0 / float(np.float32(math.sqrt(source.scale)) * target.scale)
    to_output = quantize_multiplier(real)
    output_shift = to_output.left_shift - to_output.right_shift - _RSQRT_SHIFT
    table = np.full(256, INT8_MAX, np.int8)
    for place, value in enumerate(_centred(source).tolist()):
        if value <= 0:
            continue
        significand, shift = _inverse_square_root(value)
        fine = rescale(np.array(1), _shifted(significand, shift + _RSQRT_SHIFT))
        result = rescale(fine, _shifted(to_output.significand, output_shift))
        table[place] = _int8(result + target.zero_point)
    return table


def prelu(source: Tensor, slope: Tensor, target: Tensor) -> np.ndarray:
    """The table of a PRELU by the codes of input and slope."""
    x, a = _centred(source)[:, None], _centred(slope)[None, :]
    above = rescale(x, quantize_multiplier(float(source.scale) / float(target.scale)))
    below = rescale(x * a, quantize_multiplier(float(source.scale) * float(slope.scale) / float(target.scale)))
    return _int8(np.where(x >= 0, above, below) + target.zero_point)


def squared_difference(first: Tensor, second: Tensor, target: Tensor) -> np.ndarray:
    """The table of a SQUARED_DIFFERENCE."""
    bits = _SQUARED_DIFFERENCE_HEADROOM_BITS
    twice_max = 2.0 * float(max(first.scale, second.scale))
    x, y = (
        rescale(_centred(tensor) << bits, quantize_multiplier(float(tensor.scale) / twice_max))
        for tensor in (first, second)
    )
    difference = x[:, None] - y[None, :]
    # The output's scale is multiplied in single precision.
    real = twice_max * twice_max / float(np.float32(1 << 2 * bits) * target.scale)
    scaled = rescale(difference * difference, quantize_multiplier(real))
    return _int8(scaled + target.zero_point)


def maximum(first: Tensor, second: Tensor, target: Tensor) -> np.ndarray:
    """The table of a MAXIMUM, which compares codes."""
    del first, second, target
    return np.maximum(_CODES[:, None], _CODES[None, :]).astype(np.int8)


def minimum(first: Tensor, second: Tensor, target: Tensor) -> np.ndarray:
    """The table of a MINIMUM, which compares codes."""
    del first, second, target
    return np.minimum(_CODES[:, None], _CODES[None, :]).astype(np.int8)
