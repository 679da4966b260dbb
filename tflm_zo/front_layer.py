# SPDX-License-Identifier: Apache-2.0
"""Inserting a depthwise convolution between a model's input and its first layer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.layers import quantization_of
from tflm_zo.model_file import schema, shape_of, tensor_name

# What a layer in front consists of: the convolution, and a reshape on either side.
FRONT_OPERATORS = 3


def input_tensor(tree: Any, what: str) -> Any:
    """Return the tensor of the model's only input, for ``what`` that is put behind it.

    Raises :class:`ZoError` if the model has several inputs, or its input is not int8 with a batch of one.
    """
    graph = tree.subgraphs[0]
    if len(graph.inputs) != 1:
        raise ZoError(f"{what} needs a model with one input, this one has {len(graph.inputs)}")
    tensor = graph.tensors[int(graph.inputs[0])]
    shape = shape_of(tensor)
    if tensor.type != schema.TensorType.INT8 or quantization_of(tensor) is None or shape[:1] != (1,):
        raise ZoError(f"{what} needs an int8 input [1, ...], but {tensor_name(tensor)!r} is {list(shape)}")
    return tensor


def insert_front_layer(
    tree: Any,
    name: str,
    spread: tuple[int, int, int, int],
    weights: np.ndarray,
    scales: np.ndarray,
    bias: tuple[np.ndarray, np.ndarray] | None = None,
    zero_point: int | None = None,
) -> None:
    """Insert a depthwise convolution of stride 1, whose output is like its input, behind the model's input, in place.

    ``name`` is the layer's, ``spread`` the shape (1, rows, columns, channels) in which it sees the input. ``weights``
    int8 (1, rows, columns, channels) with one of ``scales`` a channel; ``bias``: codes int32 (channels,) and scales.
    ``zero_point``: the code that stands for what is beyond the border, and for 0 (None: the input's own).
    """
    graph = tree.subgraphs[0]
    source = int(graph.inputs[0])
    tensor = graph.tensors[source]
    builder = _Inserter(tree, name)
    quantization = copy.deepcopy(tensor.quantization)
    if zero_point is not None:
        quantization.zeroPoint = np.array([zero_point], dtype=np.int64)
    entry = builder.activation("in", spread, quantization)
    changed = builder.activation("out", spread, quantization)
    result = builder.activation("result", shape_of(tensor), tensor.quantization)
    constants = [builder.constant("depthwise", weights, scales, 3)]
    if bias is not None:
        constants.append(builder.constant("bias", *bias, 0))
    for operator in graph.operators:
        operator.inputs = np.array([result if i == source else i for i in operator.inputs], dtype=np.int32)
    graph.operators = [
        builder.reshape(source, entry, spread),
        builder.depthwise([entry, *constants], changed),
        builder.reshape(changed, result, shape_of(tensor)),
        *graph.operators,
    ]


class _Inserter:
    """Adds tensors and operators of a layer to a model tree."""

    def __init__(self, tree: Any, name: str) -> None:
        self._tree = tree
        self._graph = tree.subgraphs[0]
        self._name = name
        self._reshape_code: int | None = None

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

    def activation(self, name: str, shape: tuple[int, ...], quantization: Any) -> int:
        tensor = self._tensor(name, shape, schema.TensorType.INT8, 0)
        tensor.quantization = quantization
        return len(self._graph.tensors) - 1

    def constant(self, name: str, values: np.ndarray, scales: np.ndarray, axis: int) -> int:
        kind = schema.TensorType.INT8 if values.dtype == np.int8 else schema.TensorType.INT32
        tensor = self._tensor(name, values.shape, kind, self._buffer(values))
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = scales.astype(np.float32)
        tensor.quantization.zeroPoint = np.zeros(len(scales), dtype=np.int64)
        tensor.quantization.quantizedDimension = axis
        return len(self._graph.tensors) - 1

    def _code(self, builtin: int, version: int) -> int:
        code = schema.OperatorCodeT()
        code.deprecatedBuiltinCode = code.builtinCode = builtin
        code.version = version
        self._tree.operatorCodes.append(code)
        return len(self._tree.operatorCodes) - 1

    def _operator(self, code: int, inputs: list[int], output: int) -> Any:
        operator = schema.OperatorT()
        operator.opcodeIndex = code
        operator.inputs = np.array(inputs, dtype=np.int32)
        operator.outputs = np.array([output], dtype=np.int32)
        return operator

    def reshape(self, source: int, result: int, shape: tuple[int, ...]) -> Any:
        if self._reshape_code is None:
            self._reshape_code = self._code(schema.BuiltinOperator.RESHAPE, 1)
        values = np.array(shape, dtype=np.int32)
        self._tensor(f"shape{len(shape)}", values.shape, schema.TensorType.INT32, self._buffer(values))
        target = len(self._graph.tensors) - 1
        operator = self._operator(self._reshape_code, [source, target], result)
        operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
        operator.builtinOptions = schema.ReshapeOptionsT()
        operator.builtinOptions.newShape = values
        return operator

    def depthwise(self, inputs: list[int], result: int) -> Any:
        code = self._code(schema.BuiltinOperator.DEPTHWISE_CONV_2D, 3)
        operator = self._operator(code, inputs, result)
        options = schema.DepthwiseConv2DOptionsT()
        options.padding = schema.Padding.SAME
        options.strideH = options.strideW = options.depthMultiplier = 1
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = schema.ActivationFunctionType.NONE
        operator.builtinOptionsType = schema.BuiltinOptions.DepthwiseConv2DOptions
        operator.builtinOptions = options
        return operator
