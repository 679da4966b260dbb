# SPDX-License-Identifier: Apache-2.0
"""Custom options of the training ops, as ``kernels/op_options.h`` lays them out."""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass

import numpy as np

from tflm_zo.errors import ZoError

VERSION = 5
PARAMETER_MAGIC = 0x5A4F5031
LOSS_MAGIC = 0x5A4F4C31
NODE_MAGIC = 0x5A4F4E31

KIND_WEIGHTS, KIND_BIAS, KIND_RESIDUAL, KIND_MEAN_PREDICTION = 0, 1, 2, 3
KIND_DTYPES: dict[int, np.dtype] = {
    KIND_WEIGHTS: np.dtype("i1"),
    KIND_BIAS: np.dtype("<i4"),
    KIND_RESIDUAL: np.dtype("i1"),
    KIND_MEAN_PREDICTION: np.dtype("<f4"),
}
LOSS_CROSS_ENTROPY, LOSS_MEAN_SQUARED_ERROR, LOSS_ENTROPY = 0, 1, 2
LOSS_NAMES = {
    LOSS_CROSS_ENTROPY: "cross-entropy",
    LOSS_MEAN_SQUARED_ERROR: "mean squared error",
    LOSS_ENTROPY: "entropy",
}

_BEGINNING = struct.Struct("<II")
_ENTRY = struct.Struct("<11i")
_PARAMETER_HEAD = struct.Struct("<IIiiiiiii")
_LOSS = struct.Struct("<IIiifiiiifii")
_NODE = struct.Struct("<IIi16iiiiiifiiii")


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
    exact: int
    moments_input: int
    factor_offset: int
    factor_count: int


@dataclass(frozen=True)
class Reference:
    """The input before any drift, which the adapter is recalibrated by: ``mean`` and ``spread`` of each of its channels
    in codes (float32 (channels,)), ``zero_point`` of the codes, and which parameters are the adapter's gains and
    offsets."""

    mean: np.ndarray
    spread: np.ndarray
    zero_point: int
    gain_parameter: int
    offset_parameter: int


@dataclass(frozen=True)
class ParameterOptions:
    """Options of the parameter op; ``factors`` is the float32 table of 1 / scale^2."""

    entries: tuple[ParameterEntry, ...]
    node_count: int
    factors: np.ndarray
    reference: Reference | None = None


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
    trains_bias: bool
    accumulator_scales: np.ndarray
    weight_factors: np.ndarray

    @property
    def classes(self) -> int:
        """Number of classes that the model tells apart, 0 for a regression."""
        if self.kind == LOSS_MEAN_SQUARED_ERROR:
            return 0
        return 2 if self.outputs == 1 else self.outputs

    @property
    def needs_labels(self) -> bool:
        """Whether the loss compares with a label."""
        return self.kind != LOSS_ENTROPY


@dataclass(frozen=True)
class NodeOptions:
    """Options of a node op; the arrays are float32, one value per channel or one for all."""

    node: int
    shape: LayerShape
    input_zero_point: int
    activation_min: int
    activation_max: int
    headroom: int
    bias_headroom: int
    inverse_output_scale: float
    window_height: int
    window_width: int
    pooled_width: int
    weight_factors: np.ndarray
    bias_factors: np.ndarray

    @property
    def closed_form(self) -> bool:
        """Whether the gradient comes from the head rather than from perturbation."""
        return self.window_height > 0


def pack_parameters(options: ParameterOptions) -> bytes:
    """Return the options of the parameter op."""
    entries, factors, found = options.entries, options.factors, options.reference
    counts = (len(entries), options.node_count, factors.size)
    rest = (0, 0, 0, 0)
    tables = _floats(factors)
    if found is not None:
        rest = (found.mean.size, found.zero_point, found.gain_parameter, found.offset_parameter)
        tables += _floats(found.mean) + _floats(found.spread)
    head = _PARAMETER_HEAD.pack(PARAMETER_MAGIC, VERSION, *counts, *rest)
    return head + b"".join(_ENTRY.pack(*astuple(e)) for e in entries) + tables


def unpack_parameters(data: bytes) -> ParameterOptions:
    """Inverse of :func:`pack_parameters`; raises :class:`ZoError` for another version."""
    # Every version begins with these two; the rest of an older one may be shorter.
    magic, version = _BEGINNING.unpack_from(data)
    _check(magic, version, PARAMETER_MAGIC)
    _, _, count, node_count, factor_count, channels, zero_point, gains, offsets = _PARAMETER_HEAD.unpack_from(data)
    offset = _PARAMETER_HEAD.size
    entries = tuple(ParameterEntry(*_ENTRY.unpack_from(data, offset + i * _ENTRY.size)) for i in range(count))
    tables = np.frombuffer(data, "<f4", factor_count + 2 * channels, offset + count * _ENTRY.size).astype(np.float32)
    factors, mean, spread = np.split(tables, [factor_count, factor_count + channels])
    reference = Reference(mean, spread, zero_point, gains, offsets) if channels else None
    return ParameterOptions(entries, node_count, factors, reference)


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
        int(options.trains_bias),
    )
    return head + _floats(options.accumulator_scales) + _floats(options.weight_factors)


def unpack_loss(data: bytes) -> LossOptions:
    """Inverse of :func:`pack_loss`; raises :class:`ZoError` for another version."""
    magic, version, kind, outputs, scale, zero, high, features, feature_zero, feature_scale, headroom, bias = (
        _LOSS.unpack_from(data)
    )
    _check(magic, version, LOSS_MAGIC)
    count = outputs if features else 0
    arrays = np.frombuffer(data, "<f4", 2 * count, _LOSS.size).astype(np.float32)
    return LossOptions(
        kind, outputs, scale, zero, bool(high), features, feature_zero, feature_scale, headroom,
        bool(bias), arrays[:count], arrays[count:],
    )  # fmt: skip


def pack_node(options: NodeOptions) -> bytes:
    """Return the options of a node op."""
    head = _NODE.pack(
        NODE_MAGIC,
        VERSION,
        options.node,
        *astuple(options.shape),
        options.input_zero_point,
        options.activation_min,
        options.activation_max,
        options.headroom,
        options.bias_headroom,
        options.inverse_output_scale,
        options.window_height,
        options.window_width,
        options.pooled_width,
        options.weight_factors.size,
    )
    return head + _floats(options.weight_factors) + _floats(options.bias_factors)


def unpack_node(data: bytes) -> NodeOptions:
    """Inverse of :func:`pack_node`; raises :class:`ZoError` for another version."""
    magic, version, node, *fields = _NODE.unpack_from(data)
    _check(magic, version, NODE_MAGIC)
    zero_point, low, high, headroom, bias_headroom, inverse, height, width, columns, channels = fields[16:]
    arrays = np.frombuffer(data, "<f4", 2 * channels, _NODE.size).astype(np.float32)
    return NodeOptions(
        node=node,
        shape=LayerShape(*fields[:16]),
        input_zero_point=zero_point,
        activation_min=low,
        activation_max=high,
        headroom=headroom,
        bias_headroom=bias_headroom,
        inverse_output_scale=inverse,
        window_height=height,
        window_width=width,
        pooled_width=columns,
        weight_factors=arrays[:channels],
        bias_factors=arrays[channels:],
    )


def _floats(values: np.ndarray) -> bytes:
    return values.astype("<f4").tobytes()


def _check(magic: int, version: int, wanted: int) -> None:
    if magic != wanted or version != VERSION:
        raise ZoError("the model was patched by another version of tflm-zo: patch the original again")


CONVOLUTION, DEPTHWISE, FULLY_CONNECTED = 0, 1, 2


@dataclass(frozen=True)
class LayerShape:
    """The fields of the C++ struct of this name (``kernels/layer_shape.h``), in its order."""

    kind: int
    input_height: int
    input_width: int
    input_channels: int
    output_height: int
    output_width: int
    output_channels: int
    filter_height: int
    filter_width: int
    stride_height: int
    stride_width: int
    dilation_height: int
    dilation_width: int
    pad_top: int
    pad_left: int
    depth_multiplier: int

    @property
    def positions(self) -> int:
        """How many outputs a channel has."""
        return self.output_height * self.output_width
