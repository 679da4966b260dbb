# SPDX-License-Identifier: Apache-2.0
"""The layers of a model that can be trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import DAMAGED
from tflm_zo.model.graph import Graph, Operator, Tensor, main_graph
from tflm_zo.model.layer_names import LayerLabel, label_layers, unique
from tflm_zo.model.quantization import Quantization

# The kinds of layers by their names in the schema, with its tables of their options.
_OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
}


@dataclass(frozen=True)
class Layer:
    """A convolution or fully connected layer with constant int8 weights.

    ``weights`` and ``bias`` are tensor indices (``bias`` -1 if there is none); ``channel_stride`` is the distance
    of consecutive output channels in the weights' memory, in elements; ``accumulator_scales`` are s_x * s_w,
    one per channel or one for all; ``activation`` is the schema's name of the fused function; each of ``groups`` of
    outputs sees its own part of the input's channels (1: all see all).
    """

    ordinal: int
    label: LayerLabel
    kind: str
    operator_index: int
    input: int
    output: int
    weights: int
    bias: int
    weight_count: int
    bias_count: int
    outputs: int
    channel_stride: int
    weight_scales: np.ndarray
    input_quantization: Quantization
    activation: str
    groups: int

    @property
    def name(self) -> str:
        """The name that is shown, no other layer's."""
        return self.label.name

    @property
    def channel_axis(self) -> int:
        """The axis of the weights' shape that counts the output channels."""
        return 3 if self.kind == "DEPTHWISE_CONV_2D" else 0

    @property
    def accumulator_scales(self) -> np.ndarray:
        """Scales of the layer's int32 accumulators, and of its bias."""
        return self.weight_scales * self.input_quantization.scale


def trainable_layers(model: Any) -> list[Layer]:
    """Return the layers of the main subgraph that can be trained, in order of execution.

    Raises :class:`ZoError` if the model has such layers, but not in int8.
    """
    graph = main_graph(model)
    layers: list[Layer] = []
    labels = label_layers(graph)
    for operator in graph.operators:
        if operator.name not in _OPTIONS:
            continue
        kind = operator.name
        if len(operator.inputs) < 2 or len(operator.outputs) != 1 or operator.options_type != _OPTIONS[kind]:
            raise ZoError(f"operator {operator.index} ({kind}) lacks an input, its output or its options: {DAMAGED}")
        label = unique(labels[operator.index], (layer.name for layer in layers))
        layer = _layer(graph, operator, len(layers), label)
        if layer is not None:
            layers.append(layer)
    return layers


def _layer(graph: Graph, operator: Operator, ordinal: int, label: LayerLabel) -> Layer | None:
    kind = operator.name
    source, weights, target = (graph.tensors[i] for i in (*operator.inputs[:2], *operator.outputs))
    bias = graph.tensors[operator.inputs[2]] if len(operator.inputs) > 2 and operator.inputs[2] >= 0 else None
    if len(weights.shape) != (2 if kind == "FULLY_CONNECTED" else 4):
        raise ZoError(f"operator {operator.index} ({kind}) has weights of shape {weights.shape}: {DAMAGED}")
    if weights.content is None:
        return None  # weights made by another op: nothing to train
    _require_int8((("input", source), ("weights", weights), ("bias", bias), ("output", target)), kind, label)
    if bias is not None and bias.content is None:
        return None
    if kind == "FULLY_CONNECTED" and np.any(weights.zero_points != 0):
        return None  # TFLM subtracts their zero point, which no op of ours knows; convolutions have none
    depthwise = kind == "DEPTHWISE_CONV_2D"
    outputs = weights.shape[-1] if depthwise else weights.shape[0]
    sizes = [target.shape[-1:], *([] if bias is None else [bias.shape])]
    if any(size != (outputs,) for size in sizes):
        raise ZoError(f"{label.with_kind(kind)} has {outputs} filters, but its output or bias another size: {DAMAGED}")
    count = math.prod(weights.shape)
    quantizations = [tensor.quantization for tensor in (weights, source, target)]
    weight_quantization, input_quantization, output_quantization = quantizations
    if weight_quantization is None or input_quantization is None or output_quantization is None:
        raise ZoError(f"{label.with_kind(kind)} has no quantization scales: convert the model to full int8")
    if len(weight_quantization.scales) not in (1, outputs):
        raise ZoError(f"{label.with_kind(kind)} has {len(weight_quantization.scales)} scales for {outputs}: {DAMAGED}")
    return Layer(
        ordinal=ordinal,
        label=label,
        kind=kind,
        operator_index=operator.index,
        input=source.index,
        output=target.index,
        weights=weights.index,
        bias=-1 if bias is None else bias.index,
        weight_count=count,
        bias_count=0 if bias is None else outputs,
        outputs=outputs,
        channel_stride=1 if depthwise else count // outputs,
        weight_scales=weight_quantization.scales,
        input_quantization=input_quantization,
        activation=operator.activation,
        groups=_groups(source, weights) if kind == "CONV_2D" else 1,
    )


def _groups(source: Tensor, weights: Tensor) -> int:
    """TFLM takes the filters' depth for that of a group."""
    return max(source.shape[-1] // max(weights.shape[3], 1), 1)


def _require_int8(roles: tuple[tuple[str, Tensor | None], ...], kind: str, label: LayerLabel) -> None:
    for role, tensor in roles:
        wanted = "INT32" if role == "bias" else "INT8"
        if tensor is not None and tensor.type != wanted:
            raise ZoError(
                f"{label.with_kind(kind)} has {tensor.type} {role}, not {wanted}: only full int8 models can be "
                "trained; convert with `tflm-zo convert`"
            )
