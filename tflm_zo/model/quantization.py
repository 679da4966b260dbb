# SPDX-License-Identifier: Apache-2.0
"""Scales and zero points of int8 tensors: reading them, real values to codes and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import DAMAGED, tensor_name

INT8_MIN, INT8_MAX = -128, 127

# Beyond these, products of two scales or their inverse leave single precision.
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-18, 1e18


@dataclass(frozen=True)
class Quantization:
    """Scales (float64, one or one per channel), zero point of an int8 tensor."""

    scales: np.ndarray
    zero_point: int

    @property
    def scale(self) -> float:
        """The single scale of a per-tensor quantization."""
        return float(self.scales[0])

    def reals(self, codes: np.ndarray) -> np.ndarray:
        """Return the real values of ``codes`` of a per-tensor quantization, float64."""
        return np.asarray((codes.astype(np.int32) - self.zero_point) * self.scale)


def decode_quantization(tensor: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the scales (float32) and zero points (int64) of a tensor of a model's tree: one, one a channel, or none.

    Nothing is checked.
    """
    q = tensor.quantization
    if q is None or q.scale is None or len(q.scale) == 0:
        return np.zeros(0, np.float32), np.zeros(0, np.int64)
    points = q.zeroPoint if q.zeroPoint is not None else []
    return np.asarray(q.scale, np.float32), np.asarray(points, np.int64)


def checked_quantization(scales: np.ndarray, zero_points: np.ndarray, name: str) -> Quantization | None:
    """Return the quantization of the tensor ``name``, None if it has no scale.

    Raises :class:`ZoError` for a zero point or a scale that no quantized tensor has.
    """
    if scales.size == 0:
        return None
    zero_point = int(zero_points[0]) if zero_points.size else 0
    if not -(1 << 15) <= zero_point < 1 << 15:
        raise ZoError(f"tensor {name} has the zero point {zero_point}: {DAMAGED}")
    scales = scales.astype(np.float64)
    if not np.all((scales > _SMALLEST_SCALE) & (scales < _LARGEST_SCALE)):
        raise ZoError(f"tensor {name} has scales of {scales.min():g} to {scales.max():g}: {DAMAGED}")
    return Quantization(scales, zero_point)


def quantization_of(tensor: Any) -> Quantization | None:
    """Return the quantization of a tensor of a model's tree, as :func:`checked_quantization` does."""
    scales, zero_points = decode_quantization(tensor)
    return checked_quantization(scales, zero_points, tensor_name(tensor))


def round_half_away(value: float) -> int:
    """Return the nearest integer, of two the one further from zero, as TFLite's ``TfLiteRound`` does."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def quantize(values: np.ndarray, quantization: Quantization) -> np.ndarray:
    """Return ``values`` (float, the units the Keras model was trained on) as int8 codes, clipped."""
    codes = np.rint(np.asarray(values, dtype=np.float64) / quantization.scale)
    return np.clip(codes + quantization.zero_point, -128, 127).astype(np.int8)


def dequantize(codes: np.ndarray, quantization: Quantization) -> np.ndarray:
    """Return int8 ``codes`` as float32 values, rounded once, as TFLite's DEQUANTIZE does."""
    return quantization.reals(codes).astype(np.float32)
