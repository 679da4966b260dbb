# SPDX-License-Identifier: Apache-2.0
"""Integer parameters of the layers, derived from float scales as TFLite Micro derives them.

Every function repeats the float and double operations that TFLite Micro's ``Prepare`` functions do,
in the same order and precision: one bit of difference in a multiplier would show in the outputs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.quantization import INT8_MAX, INT8_MIN, round_half_away
from tflm_zo.simulator.layouts import ADD_HEADROOM_BITS, LOGISTIC_FRACTION_BITS, SOFTMAX_DIFF_FRACTION_BITS

SOFTMAX_DIFF_INTEGER_BITS = 31 - SOFTMAX_DIFF_FRACTION_BITS
LOGISTIC_INTEGER_BITS = 31 - LOGISTIC_FRACTION_BITS


class Multiplier(NamedTuple):
    """``significand * 2**(left_shift - right_shift - 31)``; at most one of the shifts is not 0."""

    significand: int
    left_shift: int
    right_shift: int


def quantize_multiplier(real: float) -> Multiplier:
    """Fixed-point form of a multiplier >= 0, as in TFLite's ``QuantizeMultiplier``.

    Raises :class:`ZoError` if ``real`` is negative, not finite or 2**31 or more.
    """
    if not math.isfinite(real) or real < 0.0 or real >= 2.0**31:
        raise ZoError(f"a scale ratio of {real} cannot be quantized; check the model's scales")
    if real == 0.0:
        return Multiplier(0, 0, 0)
    fraction, exponent = math.frexp(real)
    significand = round_half_away(fraction * 2.0**31)
    if significand == 2**31:
        significand //= 2
        exponent += 1
    if exponent < -31:
        return Multiplier(0, 0, 0)
    return Multiplier(significand, max(exponent, 0), max(-exponent, 0))


def weight_multipliers(
    input_scale: np.float32, weight_scales: np.ndarray, output_scale: np.float32, channels: int
) -> list[Multiplier]:
    """One multiplier per output channel of a convolution; one weight scale serves all channels.

    Also for fully connected layers with a scale per channel.
    """
    scales = np.broadcast_to(weight_scales, channels)
    return [quantize_multiplier(float(input_scale) * float(scale) / float(output_scale)) for scale in scales]


def fully_connected_multiplier(
    input_scale: np.float32, weight_scale: np.float32, output_scale: np.float32
) -> Multiplier:
    """The multiplier of a fully connected layer with one weight scale.

    Here TFLite multiplies the two scales in single precision, unlike for convolutions.
    """
    product = np.float32(input_scale) * np.float32(weight_scale)
    return quantize_multiplier(float(product) / float(output_scale))


def mean_multiplier(input_scale: np.float32, output_scale: np.float32, count: int) -> Multiplier:
    """The multiplier from a sum of ``count`` codes to their mean, as in TFLite's ``QuantizedMeanOrSum``.

    It divides the significand of the scales' ratio, shifted so far that it keeps its 31 bits, and cuts the rest off.
    """
    ratio = quantize_multiplier(float(input_scale) / float(output_scale))
    shift = ratio.left_shift - ratio.right_shift
    division = min(count.bit_length() - 1, 32, 31 + shift)
    shift -= division
    return Multiplier((ratio.significand << division) // count, max(shift, 0), max(-shift, 0))


class AddMultipliers(NamedTuple):
    """The three rescalings of an ADD or SUB."""

    first: Multiplier
    second: Multiplier
    output: Multiplier


def add_multipliers(first_scale: np.float32, second_scale: np.float32, output_scale: np.float32) -> AddMultipliers:
    """Rescalings of an ADD: inputs to twice the larger of their scales, then to the output's.

    Raises :class:`ZoError` if the output's scale is so small that the last one is 1 or more.
    """
    twice_max = 2.0 * max(float(first_scale), float(second_scale))
    result = AddMultipliers(
        quantize_multiplier(float(first_scale) / twice_max),
        quantize_multiplier(float(second_scale) / twice_max),
        quantize_multiplier(twice_max / ((1 << ADD_HEADROOM_BITS) * float(output_scale))),
    )
    return _checked_add(result)


def subtract_multipliers(first_scale: np.float32, second_scale: np.float32, output_scale: np.float32) -> AddMultipliers:
    """Rescalings of a SUB: those of an ADD, but computed in single precision.

    Raises :class:`ZoError` as :func:`add_multipliers` does.
    """
    twice_max = np.float32(2) * max(first_scale, second_scale)
    result = AddMultipliers(
        quantize_multiplier(float(first_scale / twice_max)),
        quantize_multiplier(float(second_scale / twice_max)),
        quantize_multiplier(float(twice_max / (np.float32(1 << ADD_HEADROOM_BITS) * output_scale))),
    )
    return _checked_add(result)


def _checked_add(multipliers: AddMultipliers) -> AddMultipliers:
    if any(multiplier.left_shift for multiplier in multipliers):
        raise ZoError("the output scale of an ADD or SUB is too small for its inputs; requantize it")
    return multipliers


def product_multiplier(first_scale: np.float32, second_scale: np.float32, output_scale: np.float32) -> Multiplier:
    """The rescaling of a MUL."""
    return quantize_multiplier(float(first_scale) * float(second_scale) / float(output_scale))


def quantize_reals(x: np.ndarray, scale: np.float32, zero_point: int) -> np.ndarray:
    """What a QUANTIZE makes of float32 ``x``: int8, the ratio in single precision, ties away from zero."""
    ratio = (np.asarray(x, np.float32) / scale).astype(np.float64)
    codes = np.copysign(np.floor(np.abs(ratio) + 0.5), ratio) + zero_point
    return np.clip(codes, INT8_MIN, INT8_MAX).astype(np.int8)


class LogisticParams(NamedTuple):
    """``multiplier`` and ``left_shift`` scale inputs to Q4.27; see ``radius``."""

    radius: int  # inputs so far from the zero point, or further, give 0 or 1
    multiplier: int
    left_shift: int


def logistic_params(input_scale: np.float32) -> LogisticParams:
    """Parameters of an int8 LOGISTIC; raises :class:`ZoError` for a scale far too small."""
    fraction_bits = 31 - LOGISTIC_INTEGER_BITS
    real = float(input_scale) * (1 << fraction_bits)
    if real <= 1.0:
        raise ZoError(f"a logistic function's input scale of {input_scale} is too small to compute with")
    multiplier = quantize_multiplier(real)
    return LogisticParams(_radius(LOGISTIC_INTEGER_BITS, multiplier.left_shift), multiplier[0], multiplier.left_shift)


def _radius(integer_bits: int, left_shift: int) -> int:
    """The largest code difference that fixed-point numbers with ``integer_bits`` can take after ``left_shift``."""
    largest = ((1 << integer_bits) - 1) * (1 << (31 - integer_bits))
    return math.floor(largest / (1 << left_shift))


class SoftmaxParams(NamedTuple):
    """``multiplier`` and ``left_shift`` scale input differences to Q5.26; see ``diff_min``."""

    multiplier: int
    left_shift: int
    diff_min: int  # smaller differences from the maximum give probability 0


def softmax_params(beta: float, input_scale: np.float32) -> SoftmaxParams:
    """Parameters of an int8 SOFTMAX; raises :class:`ZoError` for a scale far too small."""
    fraction_bits = 31 - SOFTMAX_DIFF_INTEGER_BITS
    real = min(beta * float(input_scale) * (1 << fraction_bits), 2.0**31 - 1.0)
    if real <= 1.0:
        raise ZoError(f"a softmax input scale of {input_scale} is too small to compute with")
    multiplier = quantize_multiplier(real)
    radius = _radius(SOFTMAX_DIFF_INTEGER_BITS, multiplier.left_shift)
    return SoftmaxParams(multiplier.significand, multiplier.left_shift, -radius)
