# SPDX-License-Identifier: Apache-2.0
"""Scales and zero points of int8 tensors: reading them, real values to codes and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import DAMAGED, tensor_name

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


def quantization_of(tensor: Any) -> Quantization | None:
    """Return a tensor's quantization, ``None`` if it has no scale.

    Raises :class:`ZoError` for a zero point or a scale that no quantized tensor has.
    """
    q = tensor.quantization
    if q is None or q.scale is None or len(q.scale) == 0:
        return None
    zero_point = int(q.zeroPoint[0]) if q.zeroPoint is not None and len(q.zeroPoint) else 0
    if not -(1 << 15) <= zero_point < 1 << 15:
        raise ZoError(f"tensor {tensor_name(tensor)} has the zero point {zero_point}: {DAMAGED}")
    scales = np.asarray(q.scale, dtype=np.float64)
    if not np.all((scales > _SMALLEST_SCALE) & (scales < _LARGEST_SCALE)):
        raise ZoError(f"tensor {tensor_name(tensor)} has scales of {scales.min():g} to {scales.max():g}: {DAMAGED}")
    return Quantization(scales, zero_point)


def quantize(values: np.ndarray, quantization: Quantization) -> np.ndarray:
    """Return ``values`` (float, the units the Keras model was trained on) as int8 codes, clipped."""
    codes = np.rint(np.asarray(values, dtype=np.float64) / quantization.scale)
    return np.clip(codes + quantization.zero_point, -128, 127).astype(np.int8)


def dequantize(codes: np.ndarray, quantization: Quantization) -> np.ndarray:
    """Return int8 ``codes`` as float32 values."""
    return ((codes.astype(np.int32) - quantization.zero_point) * quantization.scale).astype(np.float32)
