# SPDX-License-Identifier: Apache-2.0
"""The layers of a model that can be trained."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import DAMAGED, builtin_code, constant, schema, shape_of, tensor_name
from tflm_zo.model.quantization import Quantization, quantization_of

_OPTIONS = {
    "CONV_2D": schema.Conv2DOptionsT,
    "DEPTHWISE_CONV_2D": schema.DepthwiseConv2DOptionsT,
    "FULLY_CONNECTED": schema.FullyConnectedOptionsT,
}
_TRAINABLE = {
    schema.BuiltinOperator.CONV_2D: "CONV_2D",
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: "DEPTHWISE_CONV_2D",
    schema.BuiltinOperator.FULLY_CONNECTED: "FULLY_CONNECTED",
}
# A converter names fused weights by a list of the Keras nodes they came from; this is the one of the layer itself.
_NODE_SUFFIX = re.compile(r"/(Conv2D|depthwise|MatMul|separable_conv2d|convolution)\d*$")


@dataclass(frozen=True)
class Layer:
    """A convolution or fully connected layer with constant int8 weights.

    ``weights`` and ``bias`` are tensor indices (``bias`` -1 if there is none); ``channel_stride`` is the distance
    of consecutive output channels in the weights' memory, in elements; ``accumulator_scales`` are s_x * s_w,
    one per channel or one for all.
    """

    ordinal: int
    name: str
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
    fused_activation: int

    @property
    def accumulator_scales(self) -> np.ndarray:
        """Scales of the layer's int32 accumulators, and of its bias."""
        return self.weight_scales * self.input_quantization.scale


def trainable_layers(model: Any) -> list[Layer]:
    """Return the layers of the main subgraph that can be trained, in order of execution.

    Raises :class:`ZoError` if the model has such layers, but not in int8.
    """
    graph = model.subgraphs[0]
    layers: list[Layer] = []
    taken: set[str] = set()
    for index, operator in enumerate(graph.operators):
        kind = _TRAINABLE.get(builtin_code(model, operator))
        if kind is None:
            continue
        layer = _layer(model, index, operator, kind, len(layers), taken)
        if layer is not None:
            taken.add(layer.name)
            layers.append(layer)
    return layers


def _layer(model: Any, index: int, operator: Any, kind: str, ordinal: int, taken: set[str]) -> Layer | None:
    graph = model.subgraphs[0]
    inputs = [int(i) for i in operator.inputs] if operator.inputs is not None else []
    outputs_given = 0 if operator.outputs is None else len(operator.outputs)
    if len(inputs) < 2 or outputs_given != 1 or not isinstance(operator.builtinOptions, _OPTIONS[kind]):
        raise ZoError(f"operator {index} ({kind}) lacks an input, its output or its options: {DAMAGED}")
    weights = graph.tensors[inputs[1]]
    if len(shape_of(weights)) != (2 if kind == "FULLY_CONNECTED" else 4):
        raise ZoError(f"operator {index} ({kind}) has weights of shape {shape_of(weights)}: {DAMAGED}")
    if constant(model, weights, np.uint8) is None:
        return None  # weights made by another op: nothing to train
    bias_index = inputs[2] if len(inputs) > 2 else -1
    name = _unique(_short_name(tensor_name(weights)), taken)
    _require_int8(graph, (inputs[0], inputs[1], bias_index, int(operator.outputs[0])), kind, name)
    if bias_index >= 0 and constant(model, graph.tensors[bias_index], np.uint8) is None:
        return None
    shape = shape_of(weights)
    depthwise = kind == "DEPTHWISE_CONV_2D"
    outputs = shape[-1] if depthwise else shape[0]
    sizes = [shape_of(graph.tensors[int(operator.outputs[0])])[-1:]]
    sizes += [shape_of(graph.tensors[bias_index])] if bias_index >= 0 else []
    if any(size != (outputs,) for size in sizes):
        raise ZoError(f"layer {name} ({kind}) has {outputs} filters, but its output or bias another size: {DAMAGED}")
    count = int(np.prod(shape))
    weight_quantization = quantization_of(weights)
    input_quantization = quantization_of(graph.tensors[inputs[0]])
    output_quantization = quantization_of(graph.tensors[int(operator.outputs[0])])
    if weight_quantization is None or input_quantization is None or output_quantization is None:
        raise ZoError(f"layer {name} ({kind}) has no quantization scales: convert the model to full int8")
    if len(weight_quantization.scales) not in (1, outputs):
        raise ZoError(f"layer {name} ({kind}) has {len(weight_quantization.scales)} scales for {outputs}: {DAMAGED}")
    return Layer(
        ordinal=ordinal,
        name=name,
        kind=kind,
        operator_index=index,
        input=inputs[0],
        output=int(operator.outputs[0]),
        weights=inputs[1],
        bias=bias_index,
        weight_count=count,
        bias_count=outputs if bias_index >= 0 else 0,
        outputs=outputs,
        channel_stride=1 if depthwise else count // outputs,
        weight_scales=weight_quantization.scales,
        input_quantization=input_quantization,
        fused_activation=int(operator.builtinOptions.fusedActivationFunction),
    )


def _require_int8(graph: Any, tensors: tuple[int, int, int, int], kind: str, name: str) -> None:
    types = {v: k for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
    roles = (
        ("input", schema.TensorType.INT8),
        ("weights", schema.TensorType.INT8),
        ("bias", schema.TensorType.INT32),
        ("output", schema.TensorType.INT8),
    )
    for index, (role, wanted) in zip(tensors, roles, strict=True):
        if index >= 0 and graph.tensors[index].type != wanted:
            raise ZoError(
                f"layer {name} ({kind}) has {types.get(graph.tensors[index].type, '?')} {role}, not "
                f"{types[wanted]}: only full int8 models can be trained; convert with `tflm-zo convert`"
            )


def _short_name(full: str) -> str:
    for part in full.split(";"):
        match = _NODE_SUFFIX.search(part)
        if match:
            return part[: match.start()].rsplit("/", 1)[-1]
    return full.split(";")[0].rsplit("/", 1)[-1] or "layer"


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}#{number}", number + 1
    return candidate
