# SPDX-License-Identifier: Apache-2.0
"""Turns each operator of a model into a layer of the engine, or says why that is impossible."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.graph import Graph, Operator
from tflm_zo.model.quantization import INT8_MIN
from tflm_zo.model.window import Geometry, depth_multiplier
from tflm_zo.simulator import fixed_point
from tflm_zo.simulator.engine import Engine, weight_quantization
from tflm_zo.simulator.fixed_point import Multiplier
from tflm_zo.simulator.lowering_context import Constants, Context
from tflm_zo.simulator.lowering_more import MORE_LOWERINGS
from tflm_zo.simulator.lowering_moves import MOVE_LOWERINGS
from tflm_zo.simulator.lowering_tables import TABLE_LOWERINGS
from tflm_zo.simulator.sim_layer import SimLayer


def _with_weights(
    c: Context,
    geometry: Geometry,
    channels: int,
    multipliers: Sequence[Multiplier],
    multiplier: int | None = None,
) -> SimLayer:
    """Add a convolution, or a depthwise one if a depth ``multiplier`` is given."""
    tensor, weights = c.weights()
    bias = c.bias(channels)
    activation = c.activation_range()
    rescaling = weight_quantization(
        multipliers, c.activation(c.input).zero_point, c.activation(c.output).zero_point, activation
    )
    connects = (c.input, c.output)
    if multiplier is None:
        per_filter = weights.size // (channels * geometry.kernel_height * geometry.kernel_width)
        groups = geometry.channels // per_filter
        c.engine.add_conv(
            connects,
            geometry,
            output_channels=channels,
            groups=groups,
            weights=weights,
            bias=bias,
            quantization=rescaling,
        )
    else:
        c.engine.add_depthwise(connects, geometry, multiplier, weights, bias, rescaling)
    return c.layer(
        geometry=geometry,
        activation=activation,
        weights=(tensor, weights),
        bias=bias,
        multipliers=multipliers,
    )


def _multipliers(c: Context, channels: int) -> list[Multiplier]:
    scales = c.weights()[0].scales
    if scales.size not in (1, channels):
        raise c.fail(f"{scales.size} weight scales for {channels} output channels")
    return fixed_point.weight_multipliers(c.activation(c.input).scale, scales, c.activation(c.output).scale, channels)


def _conv(c: Context) -> SimLayer:
    shape = c.weights()[0].shape
    channels = c.image(c.output).shape[3]
    geometry = c.geometry((shape[1], shape[2]))
    if shape[0] != channels or geometry.channels % shape[3] != 0 or channels % (geometry.channels // shape[3]) != 0:
        raise c.fail(f"weights of shape {shape} do not fit {geometry.channels} input and {channels} output channels")
    return _with_weights(c, geometry, channels, _multipliers(c, channels))


def _depthwise(c: Context) -> SimLayer:
    shape = c.weights()[0].shape
    channels = c.image(c.output).shape[3]
    geometry = c.geometry((shape[1], shape[2]))
    if shape[0] != 1 or shape[3] != channels:
        raise c.fail(f"weights of shape {shape} do not fit {geometry.channels} input and {channels} output channels")
    multiplier = depth_multiplier(c.op, c.image(c.input), c.weights()[0])
    return _with_weights(c, geometry, channels, _multipliers(c, channels), multiplier)


def _fully_connected(c: Context) -> SimLayer:
    if c.op.options.get("weightsFormat", 0) != 0:
        raise c.fail("only the default weights format is supported")
    tensor, _ = c.weights()
    source, target = c.activation(c.input), c.activation(c.output)
    if len(tensor.shape) != 2:
        raise c.fail(f"weights of shape {tensor.shape}; two dimensions are needed")
    channels, depth = tensor.shape
    rows = source.sample_size // depth
    if rows * depth != source.sample_size or rows * channels != target.sample_size:
        raise c.fail(f"weights of shape {tensor.shape} do not fit {source.shape} -> {target.shape}")
    if tensor.scales.size == 1:
        one = fixed_point.fully_connected_multiplier(source.scale, tensor.scale, target.scale)
        multipliers = [one] * channels
    else:
        multipliers = _multipliers(c, channels)
    geometry = Geometry(rows, 1, depth, 1, 1, 1, 1, 1, 1, 0, 0, rows, 1)
    return _with_weights(c, geometry, channels, multipliers)


def _pool(c: Context) -> SimLayer:
    source, target = c.image(c.input), c.image(c.output)
    if source.zero_point != target.zero_point or abs(source.scale - target.scale) > 1e-6:
        raise c.fail("input and output of a pooling must have the same scale and zero point")
    geometry = c.geometry()
    activation = c.activation_range()
    c.engine.add_pool((c.input, c.output), c.op.name == "AVERAGE_POOL_2D", geometry, activation)
    return c.layer(geometry=geometry, activation=activation)


def _mean(c: Context) -> SimLayer:
    source, target = c.activation(c.input), c.activation(c.output)
    ranks = len(source.shape)
    axes = sorted({int(axis) % ranks for axis in c.constant(1, "INT32").reshape(-1)})
    if not axes or axes[0] == 0 or axes != list(range(axes[0], axes[-1] + 1)):
        raise c.fail(f"the mean is taken over axes {axes}; axes next to each other, without the batch axis, are needed")
    outer, count, inner = (
        math.prod(sizes)
        for sizes in (source.shape[: axes[0]], source.shape[axes[0] : axes[-1] + 1], source.shape[axes[-1] + 1 :])
    )
    multiplier = fixed_point.mean_multiplier(source.scale, target.scale, count)
    c.engine.add_mean((c.input, c.output), (outer, count, inner), (source.zero_point, target.zero_point), multiplier)
    return c.layer()


def _extremum(c: Context) -> SimLayer:
    source, target = c.activation(c.input), c.activation(c.output)
    c.same_scale(c.input, c.output)
    rank = len(source.shape)
    axes = sorted({int(axis) % rank for axis in c.constant(1, "INT32").reshape(-1)})
    others = [axis for axis in range(rank) if axis not in axes]
    numbers = np.arange(source.sample_size, dtype=np.int32).reshape(source.shape)
    places = np.ascontiguousarray(numbers.transpose(others + axes).reshape(target.sample_size, -1))
    c.engine.add_extremum((c.input, c.output), places, c.op.name == "REDUCE_MAX")
    return c.layer()


def _elementwise(c: Context) -> SimLayer:
    (first, one), (second, other) = (c.operand(index) for index in c.op.inputs[:2])
    inputs = tuple(operand.tensor for operand in (one, other) if operand.tensor >= 0)
    if not inputs:
        raise c.fail("both inputs are constants; an input that is computed is needed")
    output = c.activation(c.output)
    scales = (first.scale, second.scale, output.scale)
    zero_points = (first.zero_point, second.zero_point, output.zero_point)
    activation = c.activation_range()
    if c.op.name == "MUL":
        multiplier = fixed_point.product_multiplier(*scales)
        c.engine.add_product((one, other), c.output, zero_points, multiplier, activation)
    elif c.op.name == "SUB":
        multipliers = fixed_point.subtract_multipliers(*scales)
        c.engine.add_sum((one, other), c.output, zero_points, multipliers, activation, subtract=True)
    elif len(inputs) == 2 and one.places is None and other.places is None:
        multipliers = fixed_point.add_multipliers(*scales)
        c.engine.add_add((*inputs, c.output), zero_points, multipliers, activation)
    else:
        multipliers = fixed_point.add_multipliers(*scales)
        c.engine.add_sum((one, other), c.output, zero_points, multipliers, activation, subtract=False)
    return c.layer(activation=activation, inputs=inputs)


def _quantize(c: Context) -> SimLayer:
    source, target = c.activation(c.input), c.activation(c.output)
    if source.shape != target.shape:
        raise c.fail(f"input and output have shapes {source.shape} and {target.shape}; they must be the same")
    multiplier = fixed_point.quantize_multiplier(float(source.scale) / float(target.scale))
    c.engine.add_requantize((c.input, c.output), (source.zero_point, target.zero_point), multiplier)
    return c.layer()


def _logistic(c: Context) -> SimLayer:
    source, target = c.activation(c.input), c.activation(c.output)
    if source.shape != target.shape or target.zero_point != INT8_MIN:
        raise c.fail("the output must have the input's shape and zero point -128")
    c.engine.add_logistic((c.input, c.output), source.zero_point, fixed_point.logistic_params(source.scale))
    return c.layer()


def _softmax(c: Context) -> SimLayer:
    source, target = c.activation(c.input), c.activation(c.output)
    if target.zero_point != INT8_MIN or target.scale != np.float32(1.0 / 256.0):
        raise c.fail("the output must have scale 1/256 and zero point -128")
    params = fixed_point.softmax_params(float(np.float32(c.op.options.get("beta", 1.0))), source.scale)
    c.engine.add_softmax((c.input, c.output), source.shape[-1], params)
    return c.layer()


def _reshape(c: Context) -> SimLayer:
    source, target = c.activation(c.input), c.activation(c.output)
    if math.prod(source.shape) != math.prod(target.shape):
        raise c.fail(f"{source.shape} cannot be reshaped to {target.shape}")
    c.engine.add_reshape((c.input, c.output))
    return c.layer()


_LOWERINGS: dict[str, Callable[[Context], SimLayer]] = {
    "ADD": _elementwise,
    "AVERAGE_POOL_2D": _pool,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "EXPAND_DIMS": _reshape,
    "FULLY_CONNECTED": _fully_connected,
    "LOGISTIC": _logistic,
    "MAX_POOL_2D": _pool,
    "MEAN": _mean,
    "MUL": _elementwise,
    "QUANTIZE": _quantize,
    "REDUCE_MAX": _extremum,
    "REDUCE_MIN": _extremum,
    "RESHAPE": _reshape,
    "SOFTMAX": _softmax,
    "SQUEEZE": _reshape,
    "SUB": _elementwise,
    **MORE_LOWERINGS,
    **MOVE_LOWERINGS,
    **TABLE_LOWERINGS,
}


OPERATORS = frozenset(_LOWERINGS)


def check_operators(graph: Graph) -> None:
    """Raise :class:`ZoError` that names the operators of a kind that the simulator does not run, if there are any."""
    first: dict[str, Operator] = {}
    for op in graph.operators:
        if op.name not in _LOWERINGS:
            first.setdefault(op.name, op)
    if first:
        names = ", ".join(_with_place(graph, op) for op in first.values())
        raise ZoError(
            f"the simulator, which select, tune and realign use, does not run {names}; patch and train do not need it"
        )


def _with_place(graph: Graph, op: Operator) -> str:
    """An operator with its number and the name of its output, in which converters write the layer's."""
    made = f", '{graph.tensors[op.outputs[0]].name.split(';')[0]}'" if op.outputs else ""
    return f"{op.name} (operator {op.index}{made})"


def lower(engine: Engine, graph: Graph, op: Operator, index: int, constants: Constants) -> SimLayer:
    """Append ``op`` to the engine as layer ``index`` and return its description.

    ``constants`` gives the array that the engine shall use for a constant tensor. The operator must have passed
    :func:`check_operators`. Raises :class:`ZoError` if one of its types or options is outside what the simulator
    computes.
    """
    return _LOWERINGS[op.name](Context(engine, graph, op, index, constants))
