# SPDX-License-Identifier: Apache-2.0
"""Where a model's loss is taken, the head that makes its logits, and the layers that reach the head in closed form."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tflm_zo.errors import ZoError
from tflm_zo.model import activation
from tflm_zo.model.ends import TO_INT8, described, output_end
from tflm_zo.model.graph import SHAPES_ONLY, Graph, Operator, main_graph
from tflm_zo.model.labels import PLAIN, SIGMOID, SOFTMAX, Outputs, outputs_of
from tflm_zo.model.layer_names import operator_numbers
from tflm_zo.model.layers import Layer
from tflm_zo.model.maps import map_cells
from tflm_zo.model.quantization import Quantization
from tflm_zo.model.window import read_geometry
from tflm_zo.ops.options import LOSS_CROSS_ENTROPY, LOSS_ENTROPY, LOSS_MEAN_SQUARED_ERROR

_KINDS = {"cross-entropy": LOSS_CROSS_ENTROPY, "mse": LOSS_MEAN_SQUARED_ERROR, "entropy": LOSS_ENTROPY}
LOSSES = ("auto", *_KINDS)

# Bare outputs that are less apart than this at most are no logits: the likeliest of two classes could not even have a
# probability of 0.98.
_SPAN_OF_LOGITS = 4.0
_LAYERS = ("FULLY_CONNECTED", "CONV_2D")


@dataclass(frozen=True)
class LossEnd:
    """The int8 logits (a tensor index) and the layer that makes them, if it has a closed form.

    ``outputs`` are the logits of each of ``positions`` (1, unless each cell of a map has a class of its own);
    ``output`` is the place of the model's output that they lead to.
    ``shape`` is that of the model's output, which may hold the same codes in another shape.
    """

    logits: int
    shape: tuple[int, ...]
    quantization: Quantization
    outputs: int
    positions: int
    output: int
    kind: int
    head: Layer | None


def find_loss_end(tree: Any, layers: list[Layer], loss: str, place: int = 0) -> LossEnd:
    """Return where the loss named ``loss`` (one of :data:`LOSSES`) is taken of the model's output at ``place``.

    Raises :class:`ZoError` if that is not int8, or of a shape that the loss does not fit.
    """
    if loss not in LOSSES:
        raise ZoError(f"loss {loss!r} is unknown: choose one of {', '.join(LOSSES)}")
    graph = main_graph(tree)
    producer = {o: op for op in graph.operators for o in op.outputs}
    # Walk back over what only changes the form of the result: the loss is taken of the int8 values before it.
    end = output_end(graph, graph.outputs[place])
    output = graph.outputs[place] if end.inner is None else end.inner.index
    output = _before(producer, output, SHAPES_ONLY)
    squashed = _before(producer, output, (SOFTMAX, SIGMOID))
    shape = end.shape if squashed == output else graph.tensors[squashed].shape
    cells = map_cells(shape)
    # Each class of a cell has a sigmoid of its own in detectors: no softmax, but targets between 0 and 1.
    sigmoids = cells > 1 and producer[output].name == SIGMOID and shape[-1] > 1
    if loss == "auto":
        loss = "mse" if sigmoids else _automatic(graph, outputs_of(graph, end), producer.get(squashed))
    # Mean squared error compares with the model's own output, the others with its logits.
    logits = output if loss == "mse" else _before(producer, squashed, SHAPES_ONLY)
    tensor = graph.tensors[logits]
    quantization = tensor.quantization
    if tensor.type != "INT8" or quantization is None:
        raise ZoError(f"the model's output {described(tensor)}, and not int8 inside: {TO_INT8}")
    if (loss == "entropy" and cells > 1) or (loss == "cross-entropy" and sigmoids):
        raise ZoError(f"{loss} needs one vector of logits, but the output has shape {list(shape)}: use loss mse")
    positions = 1 if loss == "mse" else cells
    outputs = math.prod(tensor.shape) // positions
    head = _head(graph, layers, logits, positions)
    return LossEnd(logits, end.shape, quantization, outputs, positions, place, _KINDS[loss], head)


def head_of(tree: Any, layers: list[Layer]) -> Layer | None:
    """Return the layer that makes the logits, None without one, or if there is no one output to take a loss of."""
    if len(tree.subgraphs[0].outputs) != 1:
        return None
    try:
        return find_loss_end(tree, layers, "auto").head
    except ZoError:
        return None


def missing_head(tree: Any, layers: list[Layer], end: LossEnd) -> str:
    """Return why no layer of a model has a gradient in closed form, as a sentence that names what makes its output."""
    graph = main_graph(tree)
    maker = next((layer for layer in layers if layer.output == end.logits), None)
    if maker is not None:
        return f"layer {maker.name} makes the output, but {why_no_head(graph, layers, maker, end.positions)}"
    last = next((op for op in graph.operators if end.logits in op.outputs), None)
    if last is None:
        return "the model's output is its input"
    number = operator_numbers(graph).get(last.index, last.index)
    return f"the model ends in operator {number} ({last.name}), with no layer behind it that makes classes of it"


def _automatic(graph: Graph, outputs: Outputs, maker: Operator | None) -> str:
    """The loss that "auto" is. Bare outputs are taken for logits where they look like them: a vector, from a layer
    without activation, not as long as the input (which an autoencoder gives back), and with a range that a softmax
    makes something of; sines, coordinates and embeddings stay within a narrow one."""
    if outputs.ending != PLAIN:
        return "cross-entropy"
    shape = outputs.end.shape
    vector = outputs.count > 1 and outputs.count == shape[-1]
    inputs = math.prod(graph.tensors[graph.inputs[0]].shape)
    layer = maker is not None and maker.name in _LAYERS and maker.activation == activation.NONE
    logits = vector and layer and outputs.count != inputs and outputs.span >= _SPAN_OF_LOGITS
    return "cross-entropy" if logits else "mse"


def _before(producer: dict[int, Operator], tensor: int, kinds: tuple[str, ...]) -> int:
    """Return what operators of these kinds, at the end of the way to ``tensor``, were given."""
    while tensor in producer and producer[tensor].name in kinds:
        tensor = producer[tensor].inputs[0]
    return tensor


def _head(graph: Graph, layers: list[Layer], logits: int, positions: int) -> Layer | None:
    for layer in layers:
        if layer.output == logits:
            return layer if not why_no_head(graph, layers, layer, positions) else None
    return None


def why_no_head(graph: Graph, layers: list[Layer], layer: Layer, positions: int = 1) -> str:
    """Return why the gradient of a layer that makes the logits of ``positions`` has no closed form, "" if it has one.

    A convolution whose one window is the whole map multiplies the same codes in the same order as a fully connected
    layer: weights [outputs][rows][columns][channels], map [rows][columns][channels]. One of 1 x 1 is such a layer at
    each position of a map.
    """
    if layer.activation != activation.NONE:
        return f"has a fused {layer.activation}"
    if layer.kind == "DEPTHWISE_CONV_2D":
        return "gives each output its own channels alone"
    # One row of features for each position: the closed form is an outer product of two vectors.
    features = math.prod(graph.tensors[layer.input].shape) // positions
    if math.prod(graph.tensors[layer.output].shape) != positions * layer.outputs:
        return "has logits at many positions"
    if layer.weight_count != layer.outputs * features:
        return "does not see its whole input"
    if positions > 1 and layer.kind == "CONV_2D" and not _is_pointwise(graph, layer):
        return "sees more than one position of its input for a cell"
    # The outer product is the whole gradient only of weights that no other layer uses.
    if sum(other.weights == layer.weights for other in layers) != 1:
        return "shares its weights with another layer"
    return ""


def _is_pointwise(graph: Graph, layer: Layer) -> bool:
    """Whether a convolution is a fully connected layer on each position of its input."""
    operator = graph.operators[layer.operator_index]
    geometry = read_geometry(operator, graph.tensors[layer.input], graph.tensors[layer.output], (1, 1))
    window = graph.tensors[layer.weights].shape[1:3]
    return window == (1, 1) and (geometry.stride_height, geometry.stride_width) == (1, 1) and layer.groups == 1


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

    The way from the head backwards may lead through operators that change shapes only, one average pooling without
    overlap (or MEAN over the whole map) and one ADD; the tensors on it must have no other consumer.
    """
    if head is None:
        return []
    graph = main_graph(tree)
    producer = {o: op for op in graph.operators for o in op.outputs}
    consumers = Counter(index for operator in graph.operators for index in set(operator.inputs))
    by_output = {layer.output: layer for layer in layers}

    tensor, window = head.input, (1, 1)
    pooled = False
    while consumers.get(tensor) == 1 and tensor in producer and tensor not in by_output:
        operator = producer[tensor]
        if not operator.inputs:
            break
        if operator.name in SHAPES_ONLY:
            pass
        elif operator.name in ("AVERAGE_POOL_2D", "MEAN") and not pooled:
            found = _window(graph, operator)
            if found is None:
                return []
            window, pooled = found, True
        else:
            break
        tensor = operator.inputs[0]
    shape = graph.tensors[tensor].shape
    if consumers.get(tensor) != 1 or len(shape) not in (2, 4):
        return []
    columns = shape[2] // window[1] if len(shape) == 4 else 1

    def form(layer: Layer) -> ClosedForm:
        return ClosedForm(layer, tensor, window[0], window[1], columns)

    if tensor in by_output:
        return [form(by_output[tensor])] if by_output[tensor].groups == 1 else []
    if tensor not in producer or producer[tensor].name != "ADD":
        return []
    # Broadcasting would change the sum; an activation of the layer's own would be a second mask.
    return [
        form(by_output[i])
        for i in producer[tensor].inputs
        if i in by_output
        and consumers.get(i) == 1
        and by_output[i].activation == activation.NONE
        and by_output[i].groups == 1
        and graph.tensors[i].shape == shape
    ]


def _window(graph: Graph, operator: Operator) -> tuple[int, int] | None:
    """Return the window of an average without overlap or rest, None if it is of another kind."""
    source = graph.tensors[operator.inputs[0]]
    height, width = source.shape[1:3]
    if operator.name == "MEAN":
        axes = graph.tensors[operator.inputs[1]].data
        whole = axes is not None and sorted(int(a) % 4 for a in axes.reshape(-1)) == [1, 2]
        return (height, width) if whole else None
    geometry = read_geometry(operator, source, graph.tensors[operator.outputs[0]])
    window = (geometry.kernel_height, geometry.kernel_width)
    stepwise = (geometry.stride_height, geometry.stride_width) == window or window == (height, width)
    # One window may be as large as the map and still be moved over it, where padding is "same".
    disjoint = (geometry.output_height * window[0], geometry.output_width * window[1]) == (height, width)
    return window if stepwise and disjoint and operator.activation == activation.NONE else None
