# SPDX-License-Identifier: Apache-2.0
"""More classes: a wider head and output, with outputs that stand for nothing until samples of them come.

The new outputs' weights are 0 and their biases so low that they are never the largest, so a model answers as before:
the other logits stay as they are, and where int8 logits reach far enough down, so do their probabilities. A training
gives those that it has samples of a start (:mod:`tflm_zo.training.new_classes`); the others stay spare.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import constant, schema, shape_of
from tflm_zo.model.graph import SHAPES_ONLY, Operator, main_graph
from tflm_zo.model.layers import Layer
from tflm_zo.model.quantization import INT8_MIN
from tflm_zo.ops.options import LOSS_MEAN_SQUARED_ERROR
from tflm_zo.patching.loss_path import LossEnd

# A spare output's logit, in nats, or lower: its probability is then below that of one in 10^8 samples, so no training
# of other classes moves its weights.
_SPARE_LOGIT = -20.0
# What may stand between the head and the model's output: each output of these is of one logit.
_ELEMENTWISE = ("SOFTMAX", "LOGISTIC", "DEQUANTIZE", "QUANTIZE", *SHAPES_ONLY)
# More than any model has; a number of this size is a mistake.
_MOST_CLASSES = 10_000


def wanted_classes(classes: int | str, present: int) -> int:
    """Return how many classes ``classes`` asks for: a number, or "+N" for N more than there are.

    Raises :class:`ZoError` if it is neither, or asks for no more than there are.
    """
    text = str(classes).strip()
    if not re.fullmatch(r"\+?[0-9]{1,6}", text):
        raise ZoError(f"classes is {classes!r}: give the number of classes, or +N for N more")
    count = present + int(text) if text.startswith("+") else int(text)
    if not present < count <= _MOST_CLASSES:
        raise ZoError(
            f"classes is {classes}, but the model has {present} already, and a class cannot be taken out: give +N, or "
            f"a number from {present + 1} to {_MOST_CLASSES}"
        )
    return count


def widen(tree: Any, end: LossEnd, classes: int | str) -> int:
    """Give a model's head and output more classes, in place; returns how many there are then.

    ``end``: where its loss is taken; ``classes``: as for :func:`wanted_classes`. Raises :class:`ZoError` if the head
    has no gradient in closed form or no bias, is that of a sigmoid unit or of a regression, or if something other
    than softmax or sigmoid comes behind it.
    """
    head = _widenable_head(end)
    count = wanted_classes(classes, end.outputs)
    graph = main_graph(tree)
    behind = _operators_behind(graph.operators, end.logits, set(graph.outputs))
    bottom = (INT8_MIN - end.quantization.zero_point) * end.quantization.scale
    logit = min(_SPARE_LOGIT, bottom)
    _widen_head(tree, head, count, logit)
    for tensor in {end.logits, *(op.outputs[0] for op in behind)}:
        _widen_shape(tree.subgraphs[0].tensors[tensor], end.outputs, count)
    for operator in behind:
        if operator.name == "RESHAPE":
            _widen_reshape(tree, operator, count)
    return count


def _widenable_head(end: LossEnd) -> Layer:
    if end.kind == LOSS_MEAN_SQUARED_ERROR:
        raise ZoError("a model of a squared error has no classes that could become more: patch with loss cross-entropy")
    if end.outputs == 1:
        raise ZoError(
            "the model has one sigmoid output for two classes, which takes no third: convert it with a softmax, one "
            "output a class"
        )
    if end.head is None:
        raise ZoError("no layer with a gradient in closed form makes the logits, so no class can be added")
    if end.head.bias < 0:
        raise ZoError(f"layer {end.head.name} has no bias, which a new class needs: convert the model with one")
    return end.head


def _operators_behind(operators: tuple[Operator, ...], logits: int, ends: set[int]) -> list[Operator]:
    """Return what computes the model's output from the logits; raises :class:`ZoError` for what cannot be widened."""
    found: list[Operator] = []
    reached = {logits}
    for operator in operators:
        if reached.isdisjoint(operator.inputs):
            continue
        if operator.name not in _ELEMENTWISE or operator.inputs[0] not in reached:
            raise ZoError(f"{operator.name} (operator {operator.index}) behind the logits takes no more classes")
        reached.update(operator.outputs)
        found.append(operator)
    if reached.isdisjoint(ends):
        raise ZoError("the logits do not lead to the model's output, so no class can be added")
    return found


def _widen_head(tree: Any, head: Layer, count: int, logit: float) -> None:
    """Append rows of zeros to the head's weights, and biases that make ``logit``, rounded down."""
    more = count - head.outputs
    # The largest scale leaves a new class's weights as much room as any other's have.
    weight_scale = float(head.weight_scales.max())
    bias_scale = weight_scale * head.input_quantization.scale
    bias = max(int(np.floor(logit / bias_scale)), -(1 << 30))
    for index, dtype, value, scale in (
        (head.weights, np.int8, 0, weight_scale),
        (head.bias, np.int32, bias, bias_scale),
    ):
        tensor = tree.subgraphs[0].tensors[index]
        old = constant(tree, tensor, dtype)
        assert old is not None
        axis = head.channel_axis if index == head.weights else 0
        shape = list(shape_of(tensor))
        shape[axis] = more
        rows = np.full(shape, value, dtype=dtype)
        values = np.concatenate([old.reshape(shape_of(tensor)), rows], axis=axis)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.astype(values.dtype.newbyteorder("<")).tobytes(), dtype=np.uint8)
        tree.buffers.append(buffer)  # the old one may be another tensor's, too
        tensor.buffer = len(tree.buffers) - 1
        tensor.shape = np.array(values.shape, dtype=np.int32)
        tensor.shapeSignature = None
        _widen_scales(tensor, head.outputs, more, scale)


def _widen_scales(tensor: Any, present: int, more: int, scale: float) -> None:
    """Give the new rows of a tensor with a scale a channel theirs."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or len(quantization.scale) != present or present == 1:
        return
    # Other tensors may hold the same object.
    tensor.quantization = quantization = copy.copy(quantization)
    quantization.scale = np.append(np.asarray(quantization.scale, np.float32), np.full(more, scale, np.float32))
    points = np.asarray(quantization.zeroPoint if quantization.zeroPoint is not None else [], np.int64)
    if len(points) == present:
        quantization.zeroPoint = np.append(points, np.zeros(more, np.int64))


def _widen_shape(tensor: Any, present: int, count: int) -> None:
    """Change the axis of a tensor, or of its signature with open sizes, that counts the classes: its last."""
    for name in ("shape", "shapeSignature"):
        sizes = getattr(tensor, name)
        if sizes is not None and len(sizes) and int(sizes[-1]) == present:
            setattr(tensor, name, np.array([*(int(size) for size in sizes[:-1]), count], dtype=np.int32))


def _widen_reshape(tree: Any, operator: Operator, count: int) -> None:
    """Let a RESHAPE of logits ask for the wider shape that its output has already."""
    graph = tree.subgraphs[0]
    shape = shape_of(graph.tensors[operator.outputs[0]])
    if not shape or shape[-1] != count:
        raise ZoError(f"RESHAPE (operator {operator.index}) behind the logits takes no more classes")
    values = np.array(shape, dtype=np.int32)
    raw = graph.operators[operator.index]
    if raw.builtinOptions is not None:
        raw.builtinOptions.newShape = values
    if len(operator.inputs) > 1 and operator.inputs[1] >= 0:
        wanted = copy.copy(graph.tensors[operator.inputs[1]])
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.astype("<i4").tobytes(), dtype=np.uint8)
        tree.buffers.append(buffer)
        wanted.buffer = len(tree.buffers) - 1
        wanted.shape = np.array([len(values)], dtype=np.int32)
        graph.tensors.append(wanted)
        raw.inputs = np.array([operator.inputs[0], len(graph.tensors) - 1], dtype=np.int32)
