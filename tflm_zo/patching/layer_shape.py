# SPDX-License-Identifier: Apache-2.0
"""A layer's geometry on one sample, in the form of the node op's options."""

from __future__ import annotations

import math
from typing import Any

from tflm_zo.model.graph import read_operator, read_tensor
from tflm_zo.model.layers import Layer
from tflm_zo.model.window import depth_multiplier, read_geometry
from tflm_zo.ops.options import CONVOLUTION, DEPTHWISE, FULLY_CONNECTED, LayerShape


def layer_shape(tree: Any, layer: Layer) -> LayerShape:
    """Return a layer's geometry.

    Raises :class:`~tflm_zo.errors.ZoError` for shapes, strides or dilations that no such layer has.
    """
    x, w, y = (read_tensor(tree, i) for i in (layer.input, layer.weights, layer.output))
    if layer.kind == "FULLY_CONNECTED":
        outputs, inputs = w.shape
        rows = math.prod(x.shape) // inputs
        return LayerShape(FULLY_CONNECTED, rows, 1, inputs, rows, 1, outputs, 1, 1, 1, 1, 1, 1, 0, 0, 1)
    operator = read_operator(tree, layer.operator_index)
    g = read_geometry(operator, x, y, (w.shape[1], w.shape[2]))
    depthwise = layer.kind == "DEPTHWISE_CONV_2D"
    return LayerShape(
        kind=DEPTHWISE if depthwise else CONVOLUTION,
        input_height=g.input_height,
        input_width=g.input_width,
        input_channels=g.channels,
        output_height=g.output_height,
        output_width=g.output_width,
        output_channels=y.shape[3],
        filter_height=g.kernel_height,
        filter_width=g.kernel_width,
        stride_height=g.stride_height,
        stride_width=g.stride_width,
        dilation_height=g.dilation_height,
        dilation_width=g.dilation_width,
        pad_top=g.pad_top,
        pad_left=g.pad_left,
        depth_multiplier=depth_multiplier(operator, x, w) if depthwise else 1,
    )
