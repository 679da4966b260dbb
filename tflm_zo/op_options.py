# SPDX-License-Identifier: Apache-2.0
"""Custom options of the training ops, as ``kernels/op_options.h`` lays them out."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from tflm_zo.errors import ZoError

VERSION = 1
PARAMETER_MAGIC = 0x5A4F5031
LOSS_MAGIC = 0x5A4F4C31

KIND_WEIGHTS, KIND_BIAS, KIND_RESIDUAL = 0, 1, 2
LOSS_CROSS_ENTROPY, LOSS_MEAN_SQUARED_ERROR = 0, 1

_ENTRY = struct.Struct("<8i")
_PARAMETER_HEAD = struct.Struct("<IIii")
_LOSS = struct.Struct("<IIiifiiiifi")


@dataclass(frozen=True)
class ParameterEntry:
    """One trainable tensor; the fields are those of the C++ struct of this name."""

    kind: int
    layer: int
    variable_input: int
    initial_input: int
    channels: int
    channel_stride: int
    headroom: int
    factor_offset: int


@dataclass(frozen=True)
class LossOptions:
    """Options of the loss op; the arrays are float32, one value per output, empty without a head."""

    kind: int
    outputs: int
    scale: float
    zero_point: int
    high_resolution: bool
    features: int
    feature_zero_point: int
    feature_scale: float
    headroom: int
    accumulator_scales: np.ndarray
    weight_factors: np.ndarray


def pack_parameters(entries: Sequence[ParameterEntry], factors: np.ndarray) -> bytes:
    """Return the options of the parameter op; ``factors`` is the float32 table of 1 / scale^2."""
    head = _PARAMETER_HEAD.pack(PARAMETER_MAGIC, VERSION, len(entries), factors.size)
    return head + b"".join(_ENTRY.pack(*astuple(e)) for e in entries) + factors.astype("<f4").tobytes()


def unpack_parameters(data: bytes) -> tuple[list[ParameterEntry], np.ndarray]:
    """Inverse of :func:`pack_parameters`; raises :class:`ZoError` for another version."""
    magic, version, count, factor_count = _PARAMETER_HEAD.unpack_from(data)
    _check(magic, PARAMETER_MAGIC, version)
    offset = _PARAMETER_HEAD.size
    entries = [ParameterEntry(*_ENTRY.unpack_from(data, offset + i * _ENTRY.size)) for i in range(count)]
    factors = np.frombuffer(data, "<f4", factor_count, offset + count * _ENTRY.size)
    return entries, factors.astype(np.float32)


def pack_loss(options: LossOptions) -> bytes:
    """Return the options of the loss op."""
    head = _LOSS.pack(
        LOSS_MAGIC,
        VERSION,
        options.kind,
        options.outputs,
        options.scale,
        options.zero_point,
        int(options.high_resolution),
        options.features,
        options.feature_zero_point,
        options.feature_scale,
        options.headroom,
    )
    arrays = (options.accumulator_scales, options.weight_factors)
    return head + b"".join(a.astype("<f4").tobytes() for a in arrays)


def unpack_loss(data: bytes) -> LossOptions:
    """Inverse of :func:`pack_loss`; raises :class:`ZoError` for another version."""
    magic, version, kind, outputs, scale, zero, high, features, feature_zero, feature_scale, headroom = (
        _LOSS.unpack_from(data)
    )
    _check(magic, LOSS_MAGIC, version)
    count = outputs if features else 0
    arrays = np.frombuffer(data, "<f4", 2 * count, _LOSS.size).astype(np.float32)
    return LossOptions(
        kind, outputs, scale, zero, bool(high), features, feature_zero, feature_scale, headroom,
        arrays[:count], arrays[count:],
    )


def _check(magic: int, wanted: int, version: int) -> None:
    if magic != wanted or version != VERSION:
        raise ZoError("the model was patched by another version of tflm-zo: patch the original again")
