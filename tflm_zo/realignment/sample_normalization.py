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
from tflm_zo.model.file import constant, schema, shape_of, tensor_name
from tflm_zo.model.quantization import quantization_of
from tflm_zo.patching.front_layer import (
    NORMALIZE,
    NORMALIZED,
    FrontBuilder,
    inner_input_index,
    input_tensor,
    quantized,
)

ALL, CHANNEL = "all", "channel"
AXES = (ALL, CHANNEL)

# Names of tensors by which a normalization is recognised, and its kind.
_USUAL, _RESCALED = "usual", "rescaled"

# If the spread is normalized too, the tensors in between are int16, in units of this part of an input code.
_FINE_BITS = 7
_FINE = 1 << _FINE_BITS
# Deviations are clipped at this many usual spreads before they are squared, so that the squares have small units.
_LARGEST_DEVIATION = 4
# Largest gain, which a constant sample gets: its spread is never taken to be 0.
_LARGEST_GAIN = 64
_FLOOR = 1.0 / _LARGEST_GAIN**2
_GAIN_BITS = 9  # fraction bits of the gain
# Largest number of squares whose sum fits the int32 in which average pooling adds up.
_MOST_ELEMENTS = 1 << 16
_CHUNK = 100  # samples that are computed in wide integers at a time
# Largest distance of a code from its sample's mean.
_LARGEST_CODE_DEVIATION = 255
# In codes. A smaller spread is the noise of rounding to codes; no int8 sample has a larger one.
_SMALLEST_SPREAD, _LARGEST_SPREAD = 0.5, 128.0


@dataclass(frozen=True)
class SampleNormalization:
    """What each sample is brought to.

    ``mean_codes``: the usual means, int8 codes: one, of all elements (``axes`` "all"), or one for each entry of the
    last axis longer than one ("channel"). ``spread``: the usual standard deviation within a sample, in codes, 0.5 to
    128, for axes "all" only; None leaves each sample's spread as it is. Raises :class:`ZoError` for others.
    """

    mean_codes: tuple[int, ...]
    spread: float | None = None
    axes: str = ALL

    def __post_init__(self) -> None:
        if self.axes not in AXES:
            raise ZoError(f"axes {self.axes!r} is unknown: choose one of {', '.join(AXES)}")
        if self.axes == ALL and len(self.mean_codes) != 1:
            raise ZoError(f"axes all takes one usual mean, not {len(self.mean_codes)}")
        if not all(-128 <= code <= 127 for code in self.mean_codes):
            raise ZoError(f"a usual mean must be an int8 code, not one of {self.mean_codes}")
        if self.spread is not None and self.axes != ALL:
            raise ZoError("the spread is normalized over all elements only: leave it out, or choose axes all")
        if self.spread is not None and not _SMALLEST_SPREAD <= self.spread <= _LARGEST_SPREAD:
            raise ZoError(
                f"the usual spread is {self.spread} codes: it must be {_SMALLEST_SPREAD} to {_LARGEST_SPREAD}"
            )

    @classmethod
    def usual(cls, reference: np.ndarray, *, with_spread: bool = False, axes: str = ALL) -> SampleNormalization:
        """Return what samples from before a drift, ``reference`` (int8 codes (n, *shape)), are on average."""
        values = _as_channels(reference, axes)
        means = np.rint(values.mean(axis=(0, 1)))
        spread = float(values.std(axis=1).mean()) if with_spread else None
        return cls(tuple(int(code) for code in means), spread, axes)

    @property
    def unit(self) -> float:
        """A code as a part of the usual spread, rounded to 12 bits, so that its square is exact in single precision."""
        assert self.spread is not None
        fraction, exponent = math.frexp(1.0 / self.spread)
        return math.ldexp(round(fraction * (1 << 12)), exponent - 12)

    @property
    def square_bits(self) -> int:
        """Binary logarithm of the unit in which squared deviations are held in int16, in squared codes."""
        assert self.spread is not None
        largest = min(_LARGEST_DEVIATION * self.spread, _LARGEST_CODE_DEVIATION)
        return math.ceil(math.log2(largest**2 / ((1 << 15) - 1)))


def normalize_codes(codes: np.ndarray, normalization: SampleNormalization) -> np.ndarray:
    """Return samples int8 (n, *shape), each normalized, as the model with the normalization in front does, to the bit.

    Raises :class:`ZoError` if the normalization is not for samples of this shape.
    """
    _check(_channel_shape(codes.shape[1:], normalization.axes), normalization)
    parts = [_normalized(codes[i : i + _CHUNK], normalization) for i in range(0, len(codes), _CHUNK)]
    return np.concatenate([codes[:0], *parts])


def _normalized(codes: np.ndarray, normalization: SampleNormalization) -> np.ndarray:
    values = _as_channels(codes, normalization.axes)
    usual = np.array(normalization.mean_codes)
    if normalization.spread is None:
        shift = np.clip(_rounded_mean(values) - usual, -128, 127)
        changed = values - shift
    else:
        deviation = _int16(values * _FINE - _rounded_mean(values * _FINE))
        variance = _rounded_mean(_int16(_shifted(np.square(deviation), 2 * _FINE_BITS + normalization.square_bits)))
        relative = (variance * _square_scale(normalization)).astype(np.float32)
        gain = np.float32(1) / np.sqrt(relative + np.float32(_FLOOR))
        gain_codes = _int16(np.floor(gain.astype(np.float64) * (1 << _GAIN_BITS) + 0.5).astype(np.int64))
        changed = _shifted(_int16(_shifted(deviation * gain_codes, _GAIN_BITS)), _FINE_BITS) + usual
    return np.clip(changed, -128, 127).astype(np.int8).reshape(codes.shape)


def add_sample_normalization(tree: Any, normalization: SampleNormalization) -> None:
    """Put the normalization behind the model's only input, before all other layers, in place.

    Without a spread: y = clip(x - mean(x) + usual mean), mean(x) rounded, the shift between -128 and 127. With one:
    y = clip((x - mean(x)) gain + usual mean), gain = 1 / sqrt((spread(x) / usual spread)^2 + 1/64^2), so that a
    constant sample becomes the usual mean. The simulator has no such operators: give it the model without them, and
    :func:`normalize_codes` of the samples.

    Operators: RESHAPE, AVERAGE_POOL_2D and SUB in int8. With a spread they are int16, which TFLite Micro has since
    January 2023, and there are CAST, MUL, QUANTIZE, DEQUANTIZE and RSQRT; RAM for four bytes an element while they run.

    Raises :class:`ZoError` if the model has several inputs, or its input is not int8 with a batch of one; if it
    normalizes samples already; or if the normalization is not for samples of its shape.
    """
    tensor = input_tensor(tree, "normalizing samples")
    if any(tensor_name(t) == NORMALIZED for t in tree.subgraphs[0].tensors):
        raise ZoError("the model normalizes samples already: start from the model without it")
    shape = _channel_shape(shape_of(tensor)[1:], normalization.axes)
    _check(shape, normalization)
    builder = FrontBuilder(tree, NORMALIZE)
    result = builder.activation("result", shape_of(tensor), tensor.quantization)
    normalized = _moved if normalization.spread is None else _rescaled
    builder.reshape(normalized(builder, shape, normalization), result)
    builder.insert(result)


def take_sample_normalization(tree: Any) -> SampleNormalization | None:
    """Take the normalization out of a model, in place, and return it; None if the model has none."""
    graph = tree.subgraphs[0]
    names = [tensor_name(t) for t in graph.tensors]
    if NORMALIZED not in names:
        return None
    result, source = names.index(NORMALIZED), inner_input_index(tree)
    # Its operators are the first ones of the model, but for the QUANTIZE of a float or uint8 input.
    first = next((i + 1 for i, op in enumerate(graph.operators) if source in op.outputs), 0)
    ahead = next(i + 1 for i, op in enumerate(graph.operators) if result in op.outputs)
    ours = {int(i) for op in graph.operators[first:ahead] for i in (*op.inputs, *op.outputs)} - {source}
    normalization = _read(tree, {names[i].removeprefix(f"{NORMALIZE}/"): graph.tensors[i] for i in ours})
    kept = [i for i in range(len(graph.tensors)) if i not in ours]
    number = {old: new for new, old in enumerate(kept)}
    number |= {-1: -1, result: number[source]}
    graph.operators = [*graph.operators[:first], *graph.operators[ahead:]]
    for holder in (graph, *graph.operators):
        holder.inputs = np.array([number[int(i)] for i in holder.inputs], dtype=np.int32)
        holder.outputs = np.array([number[int(i)] for i in holder.outputs], dtype=np.int32)
    graph.tensors = [graph.tensors[i] for i in kept]
    return normalization


def _read(tree: Any, tensors: dict[str, Any]) -> SampleNormalization:
    """The normalization whose tensors these are, by their names without the layer's."""
    if _RESCALED in tensors:
        quantization = quantization_of(tensors[_RESCALED])
        assert quantization is not None  # add_sample_normalization gave it one
        return SampleNormalization((quantization.zero_point,), 1.0 / quantization.scale)
    codes = constant(tree, tensors[_USUAL], np.int8)
    assert codes is not None
    whole = shape_of(tensors["moved"])[3] == 1
    return SampleNormalization(tuple(int(code) for code in codes), None, ALL if whole else CHANNEL)


def _moved(builder: FrontBuilder, shape: tuple[int, int], normalization: SampleNormalization) -> int:
    """The tensor of the samples with their means moved; the unit of all tensors is a code."""
    rows, channels = shape
    spread, single = (1, rows, 1, channels), (1, 1, 1, channels)
    entry, moved = (builder.activation(name, spread, quantized([1.0], [0])) for name in ("in", "moved"))
    mean, shift = (builder.activation(name, single, quantized([1.0], [0])) for name in ("mean", "shift"))
    usual = builder.constant(_USUAL, np.array(normalization.mean_codes, np.int8).reshape(single), np.ones(1))
    builder.reshape(builder.source, entry)
    _average(builder, entry, mean, rows)
    _subtract(builder, mean, usual, shift)
    _subtract(builder, entry, shift, moved)
    return moved


def _rescaled(builder: FrontBuilder, shape: tuple[int, int], normalization: SampleNormalization) -> int:
    """The tensor of the samples with mean and spread brought to the usual ones; the unit is the usual spread.

    int16 rather than float: half the RAM, and sums do not depend on their order. The few numbers a sample that need a
    root are float.
    """
    rows = shape[0]
    every, single = (1, rows, 1, 1), (1, 1, 1, 1)
    unit = normalization.unit
    square = _square_scale(normalization)

    def codes(name: str, shape: tuple[int, ...], scale: float) -> int:
        return builder.activation(name, shape, quantized([scale], [0]), np.int16)

    def number(name: str) -> int:
        return builder.activation(name, single, None, np.float32)

    entry = builder.activation("in", every, quantized([unit], [0]))
    wide, fine = codes("wide", every, unit), codes("fine", every, unit / _FINE)
    mean, deviation = codes("mean", single, unit / _FINE), codes("deviation", every, unit / _FINE)
    squares, variance = codes("squares", every, square), codes("variance", single, square)
    plain, raised, inverse = number("plain"), number("raised"), number("inverse")
    gain, amplified = codes("gain", single, 1.0 / (1 << _GAIN_BITS)), codes("amplified", every, unit / _FINE)
    rescaled = builder.activation(_RESCALED, every, quantized([unit], normalization.mean_codes))
    one = builder.constant("one", np.full(single, _FINE, np.int16), np.array([1.0 / _FINE]))
    floor = builder.constant("floor", np.full(single, -_FLOOR, np.float32), None)

    builder.reshape(builder.source, entry)
    # LiteRT cannot requantize int8 to int16, but it can cast and multiply.
    _cast(builder, entry, wide)
    _multiply(builder, wide, one, fine)
    _average(builder, fine, mean, rows)
    _subtract(builder, fine, mean, deviation)
    _multiply(builder, deviation, deviation, squares)
    _average(builder, squares, variance, rows)
    builder.operator("DEQUANTIZE", 3, [variance], plain, schema.DequantizeOptionsT())
    _subtract(builder, plain, floor, raised)
    builder.operator("RSQRT", 1, [raised], inverse)
    builder.operator("QUANTIZE", 2, [inverse], gain, schema.QuantizeOptionsT())
    _multiply(builder, deviation, gain, amplified)
    builder.operator("QUANTIZE", 2, [amplified], rescaled, schema.QuantizeOptionsT())
    return rescaled


def _average(builder: FrontBuilder, source: int, result: int, rows: int) -> None:
    """Average pooling: unlike MEAN it rounds to the nearest code everywhere, and most models use it anyway."""
    options = schema.Pool2DOptionsT()
    options.padding = schema.Padding.VALID
    options.filterHeight, options.filterWidth = rows, 1
    options.strideH = options.strideW = 1
    builder.operator("AVERAGE_POOL_2D", 3, [source], result, options)


def _subtract(builder: FrontBuilder, first: int, second: int, result: int) -> None:
    options = schema.SubOptionsT()
    options.potScaleInt16 = False
    builder.operator("SUB", 5, [first, second], result, options)


def _multiply(builder: FrontBuilder, first: int, second: int, result: int) -> None:
    builder.operator("MUL", 4, [first, second], result, schema.MulOptionsT())


def _cast(builder: FrontBuilder, source: int, result: int) -> None:
    options = schema.CastOptionsT()
    options.inDataType, options.outDataType = schema.TensorType.INT8, schema.TensorType.INT16
    builder.operator("CAST", 3, [source], result, options)


def _square_scale(normalization: SampleNormalization) -> float:
    """The unit of squared deviations as a part of the usual variance; single precision holds it exactly."""
    return normalization.unit**2 * 2.0**normalization.square_bits


def _channel_shape(shape: tuple[int, ...], axes: str) -> tuple[int, int]:
    """Rows and channels in which a sample of ``shape`` is averaged; what follows the channels' axis has length one."""
    elements = math.prod(shape)
    channels = next((n for n in reversed(shape) if n > 1), 1) if axes == CHANNEL else 1
    return elements // channels, channels


def _as_channels(codes: np.ndarray, axes: str) -> np.ndarray:
    """Samples (n, *shape) as int64 (n, rows, channels)."""
    return codes.astype(np.int64).reshape(len(codes), *_channel_shape(codes.shape[1:], axes))


def _check(shape: tuple[int, ...], normalization: SampleNormalization) -> None:
    rows, channels = shape
    if len(normalization.mean_codes) != channels:
        raise ZoError(f"samples have {channels} channels, but the normalization {len(normalization.mean_codes)} means")
    if normalization.spread is not None and rows > _MOST_ELEMENTS:
        raise ZoError(f"samples have {rows} elements: the spread can be normalized of up to {_MOST_ELEMENTS}")


def _rounded_mean(values: np.ndarray) -> np.ndarray:
    """The mean of integers (n, rows, channels) over the rows, halves away from zero: (n, 1, channels)."""
    total, rows = values.sum(axis=1, keepdims=True), values.shape[1]
    return np.sign(total) * ((np.abs(total) + rows // 2) // rows)


def _shifted(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers times 2**-bits as TFLite multiplies: to twice the result's unit, halves up, then halves away from 0."""
    doubled = (values + 1) >> 1
    half = 1 << (bits - 2)
    return np.sign(doubled) * ((np.abs(doubled) + half) >> (bits - 1))


def _int16(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -(1 << 15), (1 << 15) - 1)
