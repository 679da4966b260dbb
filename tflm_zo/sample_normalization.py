# SPDX-License-Identifier: Apache-2.0
"""Normalizing each sample in front of a model: its own mean, and its own spread, brought to the usual ones.

A gain or a contrast that differs from sample to sample is beyond any adapter, whose numbers are the same for all.
Each sample's own mean and standard deviation show it, though (instance normalization, Ulyanov, Vedaldi, Lempitsky:
"Instance Normalization: The Missing Ingredient for Fast Stylization", 2016, here at the input alone). The operators
are plain ones, so that the model stays an ordinary int8 model. :func:`normalize_codes` computes what they compute.

All scales are such that rescaling is a multiplication by a power of two: TFLite derives multipliers from scales in
single precision, TFLite Micro in double, and what is exact is the same in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.front_layer import NORMALIZE, NORMALIZED, FrontBuilder, input_tensor, quantized
from tflm_zo.model_file import schema, shape_of, tensor_name

ALL, CHANNEL = "all", "channel"
AXES = (ALL, CHANNEL)


@dataclass(frozen=True)
class SampleNormalization:
    """What each sample is brought to.

    ``mean_codes``: the usual means, int8 codes: one, of all elements (``axes`` "all"), or one for each entry of the
    last axis longer than one ("channel").
    """

    mean_codes: tuple[int, ...]
    axes: str = ALL

    def __post_init__(self) -> None:
        if self.axes not in AXES:
            raise ZoError(f"axes {self.axes!r} is unknown: choose one of {', '.join(AXES)}")
        if self.axes == ALL and len(self.mean_codes) != 1:
            raise ZoError(f"axes all takes one mean, not {len(self.mean_codes)}")
        if not all(-128 <= code <= 127 for code in self.mean_codes):
            raise ZoError(f"the usual mean must be an int8 code, not {self.mean_codes}")

    @classmethod
    def usual(cls, reference: np.ndarray, axes: str = ALL) -> SampleNormalization:
        """Return what samples before a drift, ``reference`` (int8 codes (n, *shape)), are on average."""
        values = _as_channels(reference, axes).astype(np.float64)
        return cls(tuple(int(code) for code in np.rint(values.mean(axis=(0, 1)))), axes)


def normalize_codes(codes: np.ndarray, normalization: SampleNormalization) -> np.ndarray:
    """Return samples int8 (n, *shape), each with its own mean moved to the usual one, to the bit as the model does."""
    values = _as_channels(codes, normalization.axes)
    _check_channels(values.shape[2], normalization)
    mean = _rounded_mean(values)
    shift = np.clip(mean - np.array(normalization.mean_codes), -128, 127)
    return np.clip(values - shift, -128, 127).astype(np.int8).reshape(codes.shape)


def add_sample_normalization(tree: Any, normalization: SampleNormalization) -> None:
    """Put the normalization behind the model's only input, before all other layers, in place.

    Raises :class:`ZoError` if the model has several inputs, or its input is not int8 with a batch of one; if it
    normalizes samples already; or if ``normalization`` has as many means as it has no channels.
    """
    tensor = input_tensor(tree, "normalizing samples")
    if any(tensor_name(t) == NORMALIZED for t in tree.subgraphs[0].tensors):
        raise ZoError("the model normalizes samples already: start from the model without it")
    shape = (1, *_channel_shape(shape_of(tensor)[1:], normalization.axes))
    _check_channels(shape[-1], normalization)
    builder = FrontBuilder(tree, NORMALIZE)
    plain = quantized([1.0], [0])
    rows, channels = shape[1:]
    spread, single = (1, rows, 1, channels), (1, 1, 1, channels)
    entry = builder.activation("in", spread, plain)
    mean = builder.activation("mean", single, plain)
    shift = builder.activation("shift", single, plain)
    moved = builder.activation("moved", spread, plain)
    result = builder.activation("result", shape_of(tensor), tensor.quantization)
    usual = builder.constant("usual", np.array(normalization.mean_codes, np.int8).reshape(single), np.ones(1))
    builder.reshape(builder.source, entry)
    _average(builder, entry, mean, rows)
    _subtract(builder, mean, usual, shift)
    _subtract(builder, entry, shift, moved)
    builder.reshape(moved, result)
    builder.insert(result)


def _average(builder: FrontBuilder, source: int, result: int, rows: int) -> None:
    """Average pooling: unlike MEAN it rounds to the nearest code everywhere, and most models use it anyway."""
    options = schema.Pool2DOptionsT()
    options.padding = schema.Padding.VALID
    options.filterHeight, options.filterWidth = rows, 1
    options.strideH = options.strideW = 1
    builder.operator("AVERAGE_POOL_2D", 2, [source], result, options)


def _subtract(builder: FrontBuilder, first: int, second: int, result: int) -> None:
    options = schema.SubOptionsT()
    options.potScaleInt16 = False
    builder.operator("SUB", 2, [first, second], result, options)


def _channel_shape(shape: tuple[int, ...], axes: str) -> tuple[int, int]:
    """Rows and channels in which a sample of ``shape`` is averaged; what follows the channels' axis has length one."""
    elements = math.prod(shape)
    channels = next((n for n in reversed(shape) if n > 1), 1) if axes == CHANNEL else 1
    return elements // channels, channels


def _as_channels(codes: np.ndarray, axes: str) -> np.ndarray:
    """Samples (n, *shape) as int64 (n, rows, channels)."""
    return codes.astype(np.int64).reshape(len(codes), *_channel_shape(codes.shape[1:], axes))


def _check_channels(channels: int, normalization: SampleNormalization) -> None:
    if len(normalization.mean_codes) != channels:
        raise ZoError(
            f"the samples have {channels} channels, but there are {len(normalization.mean_codes)} usual means"
        )


def _rounded_mean(values: np.ndarray) -> np.ndarray:
    """The mean of integers (n, rows, channels) over the rows, halves away from zero: (n, 1, channels)."""
    total, rows = values.sum(axis=1, keepdims=True), values.shape[1]
    return np.sign(total) * ((np.abs(total) + rows // 2) // rows)
