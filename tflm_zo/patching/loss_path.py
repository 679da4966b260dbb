# SPDX-License-Identifier: Apache-2.0
"""Where a model's loss is taken, the head that makes its logits, and the layers that reach the head in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import builtin_code, constant, schema, shape_of, tensor_name
from tflm_zo.model.layers import Layer
from tflm_zo.model.quantization import Quantization, quantization_of
from tflm_zo.ops.options import LOSS_CROSS_ENTROPY, LOSS_ENTROPY, LOSS_MEAN_SQUARED_ERROR
from tflm_zo.patching.layer_shape import fused_activation

_KINDS = {"cross-entropy": LOSS_CROSS_ENTROPY, "mse": LOSS_MEAN_SQUARED_ERROR, "entropy": LOSS_ENTROPY}
LOSSES = ("auto", *_KINDS)

_OPS = schema.BuiltinOperator
_ACTIVATIONS = schema.ActivationFunctionType


@dataclass(frozen=True)
class LossEnd:
    """The int8 logits (a tensor index) and the layer that makes them, if it has a closed form."""

    logits: int
    quantization: Quantization
    outputs: int
    kind: int
    head: Layer | None


def find_loss_end(tree: Any, layers: list[Layer], loss: str) -> LossEnd:
    """Return where the loss named ``loss`` (one of :data:`LOSSES`) is taken.

    Raises :class:`ZoError` if the model has not exactly one int8 output of a fitting shape.
    """
    if loss not in LOSSES:
        raise ZoError(f"loss {loss!r} is unknown: choose one of {', '.join(LOSSES)}")
    graph = tree.subgraphs[0]
    if len(graph.outputs) != 1:
        raise ZoError(f"the model has {len(graph.outputs)} outputs; training needs exactly one to take the loss of")
    producer = {int(o): op for op in graph.operators for o in op.outputs}
    # Walk back over what only changes the form of the result: the loss is taken of the int8 values before it.
    output = _before(tree, producer, int(graph.outputs[0]), (_OPS.DEQUANTIZE,))
    logits = _before(tree, producer, output, (_OPS.SOFTMAX, _OPS.LOGISTIC))
    if loss == "auto":
        loss = "mse" if logits == output else "cross-entropy"
    if loss == "mse":  # compares with the model's own output, the others with its logits
        logits = output
    tensor = graph.tensors[logits]
    quantization = quantization_of(tensor)
    if tensor.type != schema.TensorType.INT8 or quantization is None:
        raise ZoError(
            f"the model's output {tensor_name(tensor)!r} is not int8: convert the model to full int8 "
            "with `tflm-zo convert`"
        )
    shape = shape_of(tensor)
    outputs = int(np.prod(shape))
    if loss != "mse" and len(shape) > 1 and outputs != shape[-1]:
        raise ZoError(f"{loss} needs one vector of logits, but the output has shape {list(shape)}: use loss mse")
    return LossEnd(logits, quantization, outputs, _KINDS[loss], _head(tree, layers, logits))


def _before(tree: Any, producer: dict[int, Any], tensor: int, kinds: tuple[int, ...]) -> int:
    """Return what operators of these kinds, at the end of the way to ``tensor``, were given."""
    while tensor in producer and builtin_code(tree, producer[tensor]) in kinds:
        tensor = int(producer[tensor].inputs[0])
    return tensor


def _head(tree: Any, layers: list[Layer], logits: int) -> Layer | None:
    graph = tree.subgraphs[0]
    for layer in layers:
        plain = layer.fused_activation == schema.ActivationFunctionType.NONE
        # One row of features per pass: the closed form is an outer product of two vectors.
        features = int(np.prod(shape_of(graph.tensors[layer.input])))
        single = layer.weight_count == layer.outputs * features
        # The outer product is the whole gradient only of weights that no other layer uses.
        own = sum(other.weights == layer.weights for other in layers) == 1
        if layer.output == logits and layer.kind == "FULLY_CONNECTED" and plain and single and own:
            return layer
    return None


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
