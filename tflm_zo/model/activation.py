# SPDX-License-Identifier: Apache-2.0
"""Fused activation functions: the values that they keep an output between, and the codes."""

from __future__ import annotations

import math

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.quantization import INT8_MAX, INT8_MIN, round_half_away

NONE = "NONE"

# By the schema's names: the real values between which the function keeps its result.
LIMITS: dict[str, tuple[float, float]] = {
    NONE: (-math.inf, math.inf),
    "RELU": (0.0, math.inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}


def activation_range(activation: str, scale: np.float32 | float, zero_point: int) -> tuple[int, int]:
    """Return the codes at which an int8 output with this fused activation saturates: its lowest and its highest.

    As TFLite Micro's ``CalculateActivationRangeQuantized`` (tensorflow/lite/kernels/kernel_util.cc): the limits over
    the scale in single precision, halves away from zero. Functions that are not in :data:`LIMITS` change nothing there
    either. Raises :class:`ZoError` if the scale is so small that a limit's code leaves int32, which TFLite Micro
    refuses.
    """

    def code(value: float) -> int:
        ratio = float(np.float32(value) / np.float32(scale))
        if not abs(ratio) < 2.0**31:
            raise ZoError(f"a scale of {float(scale):g} is too small for an output with the activation {activation}")
        return zero_point + round_half_away(ratio)

    low, high = LIMITS.get(activation, LIMITS[NONE])
    return (
        max(INT8_MIN, code(low)) if math.isfinite(low) else INT8_MIN,
        min(INT8_MAX, code(high)) if math.isfinite(high) else INT8_MAX,
    )
