# SPDX-License-Identifier: Apache-2.0
"""Custom options of the training ops, as ``kernels/op_options.h`` lays them out."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.ops import option_layouts as layouts
from tflm_zo.ops.option_layouts import (
    LOSS_OPTIONS_MAGIC,
    NODE_OPTIONS_MAGIC,
    OPTIONS_VERSION,
    PARAMETER_OPTIONS_MAGIC,
    LayerKind,
    LossKind,
    ParameterEntry,
    ParameterKind,
    StateEntry,
)
from tflm_zo.ops.option_layouts import (
    LayerShape as LayerShape,
)

KIND_WEIGHTS, KIND_BIAS = ParameterKind.WEIGHTS, ParameterKind.BIAS
KIND_RESIDUAL, KIND_MEAN_PREDICTION = ParameterKind.RESIDUAL, ParameterKind.MEAN_PREDICTION
KIND_DTYPES: dict[int, np.dtype] = {
    KIND_WEIGHTS: np.dtype("i1"),
    KIND_BIAS: np.dtype("<i4"),
    KIND_RESIDUAL: np.dtype("i1"),
    KIND_MEAN_PREDICTION: np.dtype("<f4"),
}
LOSS_CROSS_ENTROPY, LOSS_ENTROPY = LossKind.CROSS_ENTROPY, LossKind.ENTROPY
LOSS_MEAN_SQUARED_ERROR = LossKind.MEAN_SQUARED_ERROR
LOSS_NAMES: dict[int, str] = {
    LOSS_CROSS_ENTROPY: "cross-entropy",
    LOSS_MEAN_SQUARED_ERROR: "mean squared error",
    LOSS_ENTROPY: "entropy",
}
CONVOLUTION, DEPTHWISE = LayerKind.CONVOLUTION, LayerKind.DEPTHWISE
FULLY_CONNECTED = LayerKind.FULLY_CONNECTED


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
    """Options of the parameter op; ``factors`` is the float32 table of 1 / scale^2, ``states`` are cleared before each
    pass."""

    entries: tuple[ParameterEntry, ...]
    node_count: int
    factors: np.ndarray
    reference: Reference | None = None
    states: tuple[StateEntry, ...] = ()


class LossOptions(layouts.LossOptions):
    """Options of the loss op; the tables are float32, one value per output, empty without a head."""

    def __init__(self, *, accumulator_scales: np.ndarray, weight_factors: np.ndarray, **fields: Any) -> None:
        super().__init__(magic=LOSS_OPTIONS_MAGIC, version=OPTIONS_VERSION, **fields)
        self.accumulator_scales = accumulator_scales
        self.weight_factors = weight_factors

    @property
    def classes(self) -> int:
        """Number of classes that the model tells apart, 0 for a regression."""
        if self.kind == LOSS_MEAN_SQUARED_ERROR:
            return 0
        return 2 if self.outputs == 1 else self.outputs

    @property
    def counts_right(self) -> bool:
        """Whether an answer is one class, so that a pass can tell if it is right."""
        return self.classes > 0 and self.positions == 1

    @property
    def needs_labels(self) -> bool:
        """Whether the loss compares with a label."""
        return self.kind != LOSS_ENTROPY


class NodeOptions(layouts.NodeOptions):
    """Options of a node op; the tables are float32, one value per channel or one for all."""

    def __init__(self, *, weight_factors: np.ndarray, bias_factors: np.ndarray, **fields: Any) -> None:
        channels = weight_factors.size
        super().__init__(magic=NODE_OPTIONS_MAGIC, version=OPTIONS_VERSION, channels=channels, **fields)
        self.weight_factors = weight_factors
        self.bias_factors = bias_factors

    @property
    def positions(self) -> int:
        """How many outputs a channel has."""
        return self.shape.output_height * self.shape.output_width

    @property
    def closed_form(self) -> bool:
        """Whether the gradient comes from the head rather than from perturbation."""
        return self.window_height > 0


def pack_parameters(options: ParameterOptions) -> bytes:
    """Return the options of the parameter op."""
    entries, factors, found = options.entries, options.factors, options.reference
    head = layouts.ParameterOptions(
        magic=PARAMETER_OPTIONS_MAGIC,
        version=OPTIONS_VERSION,
        parameter_count=len(entries),
        node_count=options.node_count,
        factor_count=factors.size,
        state_count=len(options.states),
    )
    tables = _floats(factors)
    if found is not None:
        head.reference_channels = found.mean.size
        head.reference_zero_point = found.zero_point
        head.gain_parameter = found.gain_parameter
        head.offset_parameter = found.offset_parameter
        tables += _floats(found.mean) + _floats(found.spread)
    return bytes(head) + b"".join(map(bytes, entries)) + tables + b"".join(map(bytes, options.states))


def unpack_parameters(data: bytes) -> ParameterOptions:
    """Inverse of :func:`pack_parameters`; raises :class:`ZoError` for another version."""
    check_version(data, PARAMETER_OPTIONS_MAGIC)
    head = layouts.ParameterOptions.from_buffer_copy(data)
    table = (ParameterEntry * head.parameter_count).from_buffer_copy(data, ctypes.sizeof(head))
    channels = head.reference_channels
    offset = ctypes.sizeof(head) + ctypes.sizeof(table)
    tables = np.frombuffer(data, "<f4", head.factor_count + 2 * channels, offset).astype(np.float32)
    factors, mean, spread = np.split(tables, [head.factor_count, head.factor_count + channels])
    reference = None
    if channels:
        reference = Reference(mean, spread, head.reference_zero_point, head.gain_parameter, head.offset_parameter)
    states = (StateEntry * head.state_count).from_buffer_copy(data, offset + tables.nbytes)
    return ParameterOptions(tuple(table), head.node_count, factors, reference, tuple(states))


def pack_loss(options: LossOptions) -> bytes:
    """Return the options of the loss op."""
    return bytes(options) + _floats(options.accumulator_scales) + _floats(options.weight_factors)


def unpack_loss(data: bytes) -> LossOptions:
    """Inverse of :func:`pack_loss`; raises :class:`ZoError` for another version."""
    check_version(data, LOSS_OPTIONS_MAGIC)
    options = LossOptions.from_buffer_copy(data)
    count = options.outputs if options.features else 0
    tables = np.frombuffer(data, "<f4", 2 * count, ctypes.sizeof(options)).astype(np.float32)
    options.accumulator_scales, options.weight_factors = tables[:count], tables[count:]
    return options


def pack_node(options: NodeOptions) -> bytes:
    """Return the options of a node op."""
    return bytes(options) + _floats(options.weight_factors) + _floats(options.bias_factors)


def unpack_node(data: bytes) -> NodeOptions:
    """Inverse of :func:`pack_node`; raises :class:`ZoError` for another version."""
    check_version(data, NODE_OPTIONS_MAGIC)
    options = NodeOptions.from_buffer_copy(data)
    tables = np.frombuffer(data, "<f4", 2 * options.channels, ctypes.sizeof(options)).astype(np.float32)
    options.weight_factors, options.bias_factors = np.split(tables, 2)
    return options


def _floats(values: np.ndarray) -> bytes:
    return values.astype("<f4").tobytes()


def check_version(data: bytes, magic: int) -> None:
    """Raise :class:`ZoError` if options are not those that begin with ``magic``, in the version of this package."""
    # Every version begins with these two; the rest of an older one may be shorter.
    if tuple(np.frombuffer(data, "<u4", 2)) != (magic, OPTIONS_VERSION):
        raise ZoError("the model was patched by another version of tflm-zo: patch the original again")
