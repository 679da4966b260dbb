# SPDX-License-Identifier: Apache-2.0
"""Inserting operators between a model's input and its first layer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.ends import TO_INT8, described, inner_input, input_end
from tflm_zo.model.file import schema, shape_of, tensor_name
from tflm_zo.model.graph import main_graph

# What a layer in front consists of: the convolution, and a reshape on either side.
FRONT_OPERATORS = 3

# The tensor that the normalization of samples ends with; every other layer in front comes behind it.
NORMALIZE = "normalize"
NORMALIZED = f"{NORMALIZE}/result"

_TYPES = {
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int16): schema.TensorType.INT16,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.float32): schema.TensorType.FLOAT32,
}


def inner_input_index(tree: Any) -> int:
    """Return the index of the int8 tensor that the layers read of the model's first input: behind the QUANTIZE of a
    float or uint8 input."""
    graph = main_graph(tree)
    return inner_input(graph, graph.inputs[0])


def input_tensor(tree: Any, what: str) -> Any:
    """Return the int8 tensor of the model's only input, for ``what`` that is put behind it; of a float or uint8 input
    that is the one behind its QUANTIZE.

    Raises :class:`ZoError` if the model has several inputs, or its input is of another type or batch size.
    """
    graph = tree.subgraphs[0]
    if len(graph.inputs) != 1:
        raise ZoError(f"{what} needs a model with one input, this one has {len(graph.inputs)}")
    end = input_end(main_graph(tree))
    if end.inner is None:
        raise ZoError(f"{what} needs an input that is int8 inside, but {described(end.outer)}: {TO_INT8}")
    if end.inner.shape[:1] != (1,):
        raise ZoError(f"{what} needs an input [1, ...], but {described(end.inner)}: convert it with a batch size of 1")
    return graph.tensors[end.inner.index]


def insert_front_layer(
    tree: Any,
    name: str,
    spread: tuple[int, int, int, int],
    weights: np.ndarray,
    scales: np.ndarray,
    *,
    bias: tuple[np.ndarray, np.ndarray] | None = None,
    zero_point: int | None = None,
) -> None:
    """Insert a depthwise convolution of stride 1, whose output is like its input, behind the model's input, in place.

    If samples are normalized in front, then behind that. ``name`` is the layer's, ``spread`` the shape (1, rows,
    columns, channels) in which it sees the input. ``weights`` int8 (1, rows, columns, channels) with one of ``scales``
    a channel; ``bias``: codes int32 (channels,) and scales. ``zero_point``: the code that
    stands for what is beyond the border, and for 0 (None: the input's own).
    """
    builder = FrontBuilder(tree, name)
    tensor = tree.subgraphs[0].tensors[builder.source]
    quantization = copy.deepcopy(tensor.quantization)
    if zero_point is not None:
        quantization.zeroPoint = np.array([zero_point], dtype=np.int64)
    entry = builder.activation("in", spread, quantization)
    changed = builder.activation("out", spread, quantization)
    result = builder.activation("result", shape_of(tensor), tensor.quantization)
    constants = [builder.constant("depthwise", weights, scales, 3)]
    if bias is not None:
        constants.append(builder.constant("bias", *bias, 0))
    builder.reshape(builder.source, entry)
    builder.depthwise([entry, *constants], changed)
    builder.reshape(changed, result)
    builder.insert(result)


class FrontBuilder:
    """Adds tensors and operators of a layer in front to a model tree.

    ``source`` is the tensor that the layer reads: the model's int8 input, or what
    :mod:`tflm_zo.realignment.sample_normalization` makes of it. Operators are called in the order of execution,
    :meth:`insert` last.
    """

    def __init__(self, tree: Any, name: str) -> None:
        self._tree = tree
        self._graph = tree.subgraphs[0]
        self._name = name
        self._codes: dict[int, int] = {}
        self._operators: list[Any] = []
        normalized = (i for i, t in enumerate(self._graph.tensors) if tensor_name(t) == NORMALIZED)
        self.source = next(normalized, inner_input_index(tree))

    def insert(self, result: int) -> None:
        """Put the operators behind what makes the source, and ``result`` in place of the source for all others."""
        graph = self._graph
        ahead = next((i + 1 for i, op in enumerate(graph.operators) if self.source in op.outputs), 0)
        for operator in graph.operators[ahead:]:
            operator.inputs = np.array([result if i == self.source else i for i in operator.inputs], dtype=np.int32)
        graph.operators = [*graph.operators[:ahead], *self._operators, *graph.operators[ahead:]]

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, buffer: int) -> Any:
        tensor = schema.TensorT()
        tensor.name = f"{self._name}/{name}"
        tensor.type = kind
        tensor.shape = np.array(shape, dtype=np.int32)
        tensor.buffer = buffer
        tensor.hasRank = True
        self._graph.tensors.append(tensor)
        return tensor

    def _buffer(self, values: np.ndarray) -> int:
        buffer = schema.BufferT()
        data = values.astype(values.dtype.newbyteorder("<")).tobytes()
        buffer.data = np.frombuffer(data, dtype=np.uint8)
        self._tree.buffers.append(buffer)
        return len(self._tree.buffers) - 1

    def activation(self, name: str, shape: tuple[int, ...], quantization: Any, dtype: Any = np.int8) -> int:
        """Add a tensor that is computed; ``quantization``: of the schema, None for float. Returns its index."""
        tensor = self._tensor(name, shape, _TYPES[np.dtype(dtype)], 0)
        tensor.quantization = quantization
        return len(self._graph.tensors) - 1

    def constant(self, name: str, values: np.ndarray, scales: np.ndarray | None, axis: int = 0) -> int:
        """Add a constant of the dtype and shape of ``values``; ``scales`` along ``axis``, None for float."""
        tensor = self._tensor(name, values.shape, _TYPES[values.dtype], self._buffer(values))
        if scales is not None:
            tensor.quantization = quantized(scales, np.zeros(len(scales)), axis)
        return len(self._graph.tensors) - 1

    def operator(self, name: str, version: int, inputs: list[int], output: int, options: Any = None) -> None:
        """Add an operator of the schema's ``name``; ``options``: an object of its options, None for the default."""
        builtin = getattr(schema.BuiltinOperator, name)
        if builtin not in self._codes:
            code = schema.OperatorCodeT()
            code.deprecatedBuiltinCode = code.builtinCode = builtin
            code.version = version
            self._tree.operatorCodes.append(code)
            self._codes[builtin] = len(self._tree.operatorCodes) - 1
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes[builtin]
        operator.inputs = np.array(inputs, dtype=np.int32)
        operator.outputs = np.array([output], dtype=np.int32)
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            operator.builtinOptions = options
        self._operators.append(operator)

    def reshape(self, source: int, result: int) -> None:
        """Copy the codes of ``source`` to ``result``, whatever shape and quantization that has."""
        values = np.array(shape_of(self._graph.tensors[result]), dtype=np.int32)
        options = schema.ReshapeOptionsT()
        options.newShape = values
        target = self.constant(f"shape{len(values)}", values, None)
        self.operator("RESHAPE", 1, [source, target], result, options)

    def depthwise(self, inputs: list[int], result: int) -> None:
        """Convolve each channel by itself: stride 1, as many columns and rows as before."""
        options = schema.DepthwiseConv2DOptionsT()
        options.padding = schema.Padding.SAME
        options.strideH = options.strideW = options.depthMultiplier = 1
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = schema.ActivationFunctionType.NONE
        self.operator("DEPTHWISE_CONV_2D", 3, inputs, result, options)


def quantized(scales: Any, zero_points: Any, axis: int = 0) -> Any:
    """Return the schema's quantization of these scales and zero points, along ``axis`` if there are several."""
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.asarray(scales, dtype=np.float32)
    quantization.zeroPoint = np.asarray(zero_points, dtype=np.int64)
    quantization.quantizedDimension = axis
    return quantization
