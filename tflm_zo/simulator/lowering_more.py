# SPDX-License-Identifier: Apache-2.0
"""Lowerings of matrix products, transposed convolutions, bilinear resizing and LSTMs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tflm_zo.model.graph import Tensor
from tflm_zo.model.quantization import INT8_MAX, INT8_MIN
from tflm_zo.model.window import Geometry, read_window
from tflm_zo.simulator import fixed_point
from tflm_zo.simulator.engine import Operand, weight_quantization
from tflm_zo.simulator.fixed_point import Multiplier
from tflm_zo.simulator.layouts import LstmParams, MatmulParams
from tflm_zo.simulator.lowering_context import Context
from tflm_zo.simulator.lstm_tables import sigmoid_table, tanh_table
from tflm_zo.simulator.sim_layer import SimLayer

_BLEND_BITS = 10  # of a weight along one axis


def _matrices(c: Context, index: int, rows_first: bool, outer: tuple[int, ...]) -> tuple[Tensor, Operand]:
    """A factor of a matrix product as (..., rows, depth): as it is, or with its last axes exchanged."""
    tensor = c.graph.tensors[index]
    if tensor.data is None:
        c.activation(index)
    elif tensor.type != "INT8" or tensor.scales.size != 1:
        raise c.fail(f"constant '{tensor.name}' is not an int8 tensor with one scale; quantize the model fully")
    numbers = np.arange(math.prod(tensor.shape), dtype=np.int32).reshape(tensor.shape)
    if not rows_first:
        numbers = numbers.swapaxes(-1, -2)
    places = np.ascontiguousarray(np.broadcast_to(numbers, (*outer, *numbers.shape[-2:])))
    return tensor, Operand(-1 if tensor.data is not None else index, tensor.data, places)


def _batch_matmul(c: Context) -> SimLayer:
    target = c.activation(c.output)
    first, second = (c.graph.tensors[index].shape for index in c.op.inputs[:2])
    if min(len(first), len(second)) < 2:
        raise c.fail(f"{first} and {second} are no matrices")
    outer = np.broadcast_shapes(first[:-2], second[:-2])
    left, one = _matrices(c, c.op.inputs[0], not c.op.options.get("adjX", False), outer)
    right, other = _matrices(c, c.op.inputs[1], bool(c.op.options.get("adjY", False)), outer)
    assert one.places is not None and other.places is not None
    rows, depth = one.places.shape[-2:]
    columns = other.places.shape[-2]
    if other.places.shape[-1] != depth or target.sample_size != math.prod(outer) * rows * columns:
        raise c.fail(f"{first} times {second} does not give {target.shape}")
    inputs = tuple(operand.tensor for operand in (one, other) if operand.tensor >= 0)
    if not inputs:
        raise c.fail("both inputs are constants; an input that is computed is needed")
    multiplier = fixed_point.fully_connected_multiplier(left.scale, right.scale, target.scale)
    params = MatmulParams(
        math.prod(outer), rows, columns, depth, left.zero_point, right.zero_point, *multiplier[:3], target.zero_point
    )
    c.engine.add_matmul((one, other), c.output, params)
    return c.layer(inputs=inputs)


def _transpose_conv(c: Context) -> SimLayer:
    tensor, weights = c.weights()
    source, target = c.image(c.op.inputs[2]), c.image(c.output)
    channels, height, width, depth = tensor.shape
    if depth != source.shape[3] or channels != target.shape[3]:
        raise c.fail(f"weights of shape {tensor.shape} do not fit {source.shape} -> {target.shape}")
    forward = read_window(c.op, (height, width)).over(*target.sample_shape)
    if (forward.output_height, forward.output_width) != source.shape[1:3]:
        raise c.fail(f"{source.shape} does not fit {target.shape}")
    geometry: Geometry = forward._replace(
        input_height=source.shape[1],
        input_width=source.shape[2],
        channels=depth,
        output_height=target.shape[1],
        output_width=target.shape[2],
    )
    if tensor.scales.size not in (1, channels):
        raise c.fail(f"{tensor.scales.size} weight scales for {channels} output channels")
    multipliers = fixed_point.weight_multipliers(source.scale, tensor.scales, target.scale, channels)
    activation = c.activation_range()
    quantization = weight_quantization(multipliers, source.zero_point, target.zero_point, activation)
    c.engine.add_transpose_conv((source.index, c.output), geometry, weights, c.bias(channels, 3), quantization)
    return c.layer(activation=activation, inputs=(source.index,))


class _Axis(NamedTuple):
    """For each place along an axis of the output: two of the input, and the weight of the second of 1024."""

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray


def _axis(size: int, target: int, align: bool, half: bool) -> _Axis:
    unit = 1 << _BLEND_BITS
    scale = (unit * size + target // 2) // target
    if align and target > 1:
        scale = (unit * (size - 1) + (target - 1) // 2) // (target - 1)
    at = np.arange(target, dtype=np.int64) * scale
    if half:
        at += scale // 2 - unit // 2
    # Divisions cut towards zero; where that differs from rounding down, the result is below zero and does not count.
    low = np.maximum(at // unit, 0)
    high = np.minimum(-(-at // unit), size - 1)
    return _Axis(low, np.maximum(high, 0), at - unit * low)


def _resize_bilinear(c: Context) -> SimLayer:
    source, target = c.image(c.input), c.image(c.output)
    c.same_scale(c.input, c.output)
    align, half = (bool(c.op.options.get(name, False)) for name in ("alignCorners", "halfPixelCenters"))
    rows, columns = (
        _axis(size, aim, align, half) for size, aim in zip(source.shape[1:3], target.shape[1:3], strict=True)
    )
    numbers = np.arange(source.sample_size, dtype=np.int32).reshape(source.sample_shape)
    unit = 1 << _BLEND_BITS
    places, weights = [], []
    for y, row_weight in ((rows.low, unit - rows.weight), (rows.high, rows.weight)):
        for x, column_weight in ((columns.low, unit - columns.weight), (columns.high, columns.weight)):
            places.append(numbers[y][:, x])
            weights.append(np.broadcast_to(np.multiply.outer(row_weight, column_weight)[..., None], places[-1].shape))
    c.engine.add_blend(
        (c.input, c.output),
        np.ascontiguousarray(np.stack(places, -1), np.int32),
        np.ascontiguousarray(np.stack(weights, -1), np.int32),
    )
    return c.layer()


# Positions of an LSTM's inputs, for the gates input, forget, cell and output.
_INPUT_WEIGHTS = (1, 2, 3, 4)
_HIDDEN_WEIGHTS = (5, 6, 7, 8)
_VARIANTS = (9, 10, 11, 16, 17, 20, 21, 22, 23)  # peepholes, projection, layer normalization
_BIASES = (12, 13, 14, 15)
_HIDDEN, _CELL = 18, 19
_GATE_SCALE = np.float32(2.0**-12)
_FUNCTION_SCALE = 2.0**-15


def _lstm(c: Context) -> SimLayer:
    """The state is that of a reset model before each sample."""
    source = c.activation(c.input)
    tensors = [c.graph.tensors[index] if index >= 0 else None for index in c.op.inputs]
    hidden, cell = tensors[_HIDDEN], tensors[_CELL]
    if any(tensors[i] is not None for i in _VARIANTS if i < len(tensors)):
        raise c.fail("peepholes, projections and layer normalization are not supported")
    if hidden is None or cell is None or hidden.type != "INT8" or cell.type != "INT16":
        raise c.fail("an int8 hidden and an int16 cell state are needed")
    if c.op.activation != "TANH":
        raise c.fail(f"the activation {c.op.activation} is not supported; tanh is")
    scale_power = math.log2(float(cell.scale))
    if not scale_power.is_integer():
        raise c.fail(f"the scale {cell.scale} of the cell state is no power of two")
    weights, biases, rescalings = [], [], []
    for gate in range(4):
        of_input, of_hidden = (tensors[places[gate]] for places in (_INPUT_WEIGHTS, _HIDDEN_WEIGHTS))
        bias = tensors[_BIASES[gate]]
        if of_input is None or of_hidden is None or bias is None or bias.data is None:
            raise c.fail("a weight or a bias of a gate is missing")
        for tensor, scale in ((of_input, source.scale), (of_hidden, hidden.scale)):
            if tensor.type != "INT8" or tensor.data is None or tensor.scales.size != 1 or tensor.zero_point != 0:
                raise c.fail(f"weights '{tensor.name}' must be constant int8 with one scale and zero point 0")
            rescalings.append(fixed_point.fully_connected_multiplier(scale, tensor.scale, _GATE_SCALE))
        weights.append(np.concatenate([c.constants(of_input.index), c.constants(of_hidden.index)], 1))
        biases.append(bias.data.reshape(-1))
    rescalings += _products(float(cell.scale), float(hidden.scale))
    units, inputs = weights[0].shape[0], source.shape[-1]
    if weights[0].shape[1] != inputs + units or 1 not in source.shape[:2]:
        raise c.fail(f"weights of shape {weights[0].shape} do not fit {source.shape}")
    clip = min(int(float(np.float32(c.op.options.get("cellClip", 0.0))) / float(cell.scale)), 2**15 - 1)
    params = LstmParams(source.sample_size // inputs, inputs, units, source.zero_point, hidden.zero_point, clip)
    tables = np.stack([sigmoid_table(), tanh_table(-12), tanh_table(int(scale_power))])
    parameters = (np.ascontiguousarray(np.stack(weights), np.int8), np.ascontiguousarray(np.stack(biases), np.int32))
    c.engine.add_lstm((c.input, c.output), params, parameters, rescalings, tables)
    return c.layer(activation=(INT8_MIN, INT8_MAX))


def _products(cell_scale: float, hidden_scale: float) -> list[Multiplier]:
    """Rescalings of forget gate by cell, input gate by cell gate, and output gate by the cell's tanh."""
    one = _FUNCTION_SCALE
    return [
        fixed_point.quantize_multiplier(real)
        for real in (one * cell_scale / cell_scale, one * one / cell_scale, one * one / hidden_scale)
    ]


MORE_LOWERINGS: dict[str, Callable[[Context], SimLayer]] = {
    "BATCH_MATMUL": _batch_matmul,
    "RESIZE_BILINEAR": _resize_bilinear,
    "TRANSPOSE_CONV": _transpose_conv,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
}
