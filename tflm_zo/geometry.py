# SPDX-License-Identifier: Apache-2.0
"""Geometry of a layer on one sample, and where its output meets the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.layers import Layer, quantization_of
from tflm_zo.model_file import DAMAGED, builtin_code, constant, schema, shape_of

CONVOLUTION, DEPTHWISE, FULLY_CONNECTED = 0, 1, 2

_OPS = schema.BuiltinOperator
_ACTIVATIONS = schema.ActivationFunctionType


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


@dataclass(frozen=True)
class ClosedForm:
    """A layer whose output reaches the head by linear ops alone.

    ``mask`` is the tensor whose saturation stops the gradient; windows of ``window_height`` x ``window_width`` of
    its positions are averaged to one feature of a map of ``pooled_width`` columns.
    """

    layer: Layer
    mask: int
    window_height: int
    window_width: int
    pooled_width: int


def layer_shape(tree: Any, layer: Layer) -> LayerShape:
    """Return a layer's geometry; paddings as TFLite computes them (half of the total before).

    Raises :class:`ZoError` for shapes, strides or dilations that no such layer has.
    """
    graph = tree.subgraphs[0]
    operator = graph.operators[layer.operator_index]
    x, w, y = (shape_of(graph.tensors[i]) for i in (layer.input, layer.weights, layer.output))
    if layer.kind == "FULLY_CONNECTED":
        rows = int(np.prod(x)) // w[1]
        return LayerShape(FULLY_CONNECTED, rows, 1, w[1], rows, 1, w[0], 1, 1, 1, 1, 1, 1, 0, 0, 1)
    options = operator.builtinOptions
    depthwise = layer.kind == "DEPTHWISE_CONV_2D"
    same = options.padding == schema.Padding.SAME

    def before(size: int, out: int, filter_size: int, stride: int, dilation: int) -> int:
        reach = (out - 1) * stride + (filter_size - 1) * dilation + 1
        return max(reach - size, 0) // 2 if same else 0

    dilations = (options.dilationHFactor, options.dilationWFactor)
    steps = (options.strideH, options.strideW, *dilations)
    if len(x) != 4 or len(y) != 4 or not all(0 < step < 1 << 15 for step in steps):
        raise ZoError(f"layer {layer.name} has shapes, strides or dilations that do not fit: {DAMAGED}")
    return LayerShape(
        DEPTHWISE if depthwise else CONVOLUTION,
        x[1],
        x[2],
        x[3],
        y[1],
        y[2],
        y[3],
        w[1],
        w[2],
        options.strideH,
        options.strideW,
        *dilations,
        before(x[1], y[1], w[1], options.strideH, dilations[0]),
        before(x[2], y[2], w[2], options.strideW, dilations[1]),
        w[3] // x[3] if depthwise else 1,
    )


def activation_range(tree: Any, tensor_index: int, activation: int) -> tuple[int, int]:
    """Return the codes at which a fused activation saturates (the ends of int8 without one)."""
    quantization = quantization_of(tree.subgraphs[0].tensors[tensor_index])
    low, high = -128, 127
    if quantization is None:
        return low, high

    def code(value: float) -> int:
        return round(value / quantization.scale) + quantization.zero_point

    if activation in (_ACTIVATIONS.RELU, _ACTIVATIONS.RELU6):
        low = max(low, code(0.0))
    if activation == _ACTIVATIONS.RELU6:
        high = min(high, code(6.0))
    if activation == _ACTIVATIONS.RELU_N1_TO_1:
        low, high = max(low, code(-1.0)), min(high, code(1.0))
    return low, high


def fused_activation(operator: Any) -> int:
    """Return an operator's fused activation, NONE if it has no such option."""
    return int(getattr(operator.builtinOptions, "fusedActivationFunction", _ACTIVATIONS.NONE))


def closed_forms(tree: Any, layers: list[Layer], head: Layer | None) -> list[ClosedForm]:
    """Return the layers whose dL/dy follows from the head's gradient by pooling and reshaping alone.

    The way from the head backwards may lead through RESHAPE, one average pooling without overlap (or MEAN over
    the whole map) and one ADD; the tensors on it must have no other consumer.
    """
    if head is None:
        return []
    graph = tree.subgraphs[0]
    producer = {int(o): op for op in graph.operators for o in op.outputs}
    consumers: dict[int, int] = {}
    for operator in graph.operators:
        for index in {int(i) for i in operator.inputs}:
            consumers[index] = consumers.get(index, 0) + 1
    by_output = {layer.output: layer for layer in layers}

    tensor, window = head.input, (1, 1)
    pooled = False
    while consumers.get(tensor) == 1 and tensor in producer and tensor not in by_output:
        operator = producer[tensor]
        code = builtin_code(tree, operator)
        if operator.inputs is None or len(operator.inputs) == 0:
            break
        source = int(operator.inputs[0])
        if code == _OPS.RESHAPE:
            pass
        elif code in (_OPS.AVERAGE_POOL_2D, _OPS.MEAN) and not pooled:
            found = _window(tree, operator, code)
            if found is None:
                return []
            window, pooled = found, True
        else:
            break
        tensor = source
    if consumers.get(tensor) != 1 or len(shape_of(graph.tensors[tensor])) not in (2, 4):
        return []
    shape = shape_of(graph.tensors[tensor])
    columns = shape[2] // window[1] if len(shape) == 4 else 1

    def form(layer: Layer) -> ClosedForm:
        return ClosedForm(layer, tensor, window[0], window[1], columns)

    if tensor in by_output:
        return [form(by_output[tensor])]
    operator = producer.get(tensor)
    if operator is None or builtin_code(tree, operator) != _OPS.ADD:
        return []
    operands = [int(i) for i in operator.inputs]
    # Broadcasting would change the sum; an activation of the layer's own would be a second mask.
    return [
        form(by_output[i])
        for i in operands
        if i in by_output
        and consumers.get(i) == 1
        and by_output[i].fused_activation == _ACTIVATIONS.NONE
        and shape_of(graph.tensors[i]) == shape
    ]


def _window(tree: Any, operator: Any, code: int) -> tuple[int, int] | None:
    """Return the window of an average without overlap or rest, None if it is of another kind."""
    graph = tree.subgraphs[0]
    height, width = shape_of(graph.tensors[operator.inputs[0]])[1:3]
    if code == _OPS.MEAN:
        axes = constant(tree, graph.tensors[operator.inputs[1]], np.int32)
        whole = axes is not None and sorted(int(a) % 4 for a in axes) == [1, 2]
        return (height, width) if whole else None
    options = operator.builtinOptions
    if not isinstance(options, schema.Pool2DOptionsT) or min(options.filterHeight, options.filterWidth) < 1:
        return None
    window = (options.filterHeight, options.filterWidth)
    plain = ((options.strideH, options.strideW) == window or window == (height, width)) and fused_activation(
        operator
    ) == _ACTIVATIONS.NONE
    return window if plain and height % window[0] == 0 and width % window[1] == 0 else None
