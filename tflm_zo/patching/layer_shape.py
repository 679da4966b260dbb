# SPDX-License-Identifier: Apache-2.0
"""Geometry of a layer on one sample, and the codes at which its activation saturates."""

from __future__ import annotations

from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import DAMAGED, schema, shape_of
from tflm_zo.model.layers import Layer
from tflm_zo.model.quantization import quantization_of
from tflm_zo.ops.options import CONVOLUTION, DEPTHWISE, FULLY_CONNECTED, LayerShape

_ACTIVATIONS = schema.ActivationFunctionType


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
