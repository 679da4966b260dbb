# SPDX-License-Identifier: Apache-2.0
"""The input adapter: an identity layer in front of a model, for drifts of the sensor.

A gain and an offset for every entry of the input's last axis longer than one (feature coefficients, colour channels,
sensor axes). Ageing, dirt, another microphone change just these few numbers, which weight perturbation finds in few
passes, where the first layer's thousands of weights would need many.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.layers import quantization_of
from tflm_zo.model_file import schema, shape_of, tensor_name

NAME = "adapter"

# Weight code of gain 1: a power of two, so that the untrained adapter is exactly the identity; gains reach 3.97.
UNIT = 32


def add_adapter(tree: Any) -> None:
    """Insert the adapter behind the model's only input, in place; outputs stay the same to the bit.

    Raises :class:`ZoError` if the model has several inputs, or its input is not int8 with a batch of one.
    """
    graph = tree.subgraphs[0]
    if len(graph.inputs) != 1:
        raise ZoError(f"the adapter needs a model with one input, this one has {len(graph.inputs)}")
    source = int(graph.inputs[0])
    tensor = graph.tensors[source]
    quantization = quantization_of(tensor)
    shape = shape_of(tensor)
    if tensor.type != schema.TensorType.INT8 or quantization is None or shape[:1] != (1,):
        raise ZoError(f"the adapter needs an int8 input [1, ...], but {tensor_name(tensor)!r} is {list(shape)}")
    axis = max((i for i, n in enumerate(shape) if n > 1), default=len(shape) - 1)
    channels = shape[axis]
    # Trailing axes of length one follow the adapted axis; both orders are the same memory.
    spread = (1, int(np.prod(shape)) // channels, 1, channels)
    builder = _Inserter(tree)
    entry = builder.activation("in", spread, tensor)
    changed = builder.activation("out", spread, tensor)
    result = builder.activation("result", shape, tensor)
    weights = builder.constant(
        "depthwise",
        np.full((1, 1, 1, channels), UNIT, dtype=np.int8),
        np.full(channels, 1.0 / UNIT),
        3,
    )
    bias = builder.constant("bias", np.zeros(channels, dtype=np.int32), np.full(channels, quantization.scale / UNIT), 0)
    for operator in graph.operators:
        operator.inputs = np.array([result if i == source else i for i in operator.inputs], dtype=np.int32)
    graph.operators = [
        builder.reshape(source, entry, spread),
        builder.depthwise(entry, weights, bias, changed),
        builder.reshape(changed, result, shape),
        *graph.operators,
    ]


class _Inserter:
    """Adds tensors and operators of the adapter to a model tree."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self._graph = tree.subgraphs[0]
        self._reshape_code: int | None = None

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, buffer: int) -> Any:
        tensor = schema.TensorT()
        tensor.name = f"{NAME}/{name}"
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

    def activation(self, name: str, shape: tuple[int, ...], like: Any) -> int:
        tensor = self._tensor(name, shape, schema.TensorType.INT8, 0)
        tensor.quantization = like.quantization
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

    def depthwise(self, source: int, weights: int, bias: int, result: int) -> Any:
        code = self._code(schema.BuiltinOperator.DEPTHWISE_CONV_2D, 3)
        operator = self._operator(code, [source, weights, bias], result)
        options = schema.DepthwiseConv2DOptionsT()
        options.padding = schema.Padding.VALID
        options.strideH = options.strideW = options.depthMultiplier = 1
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = schema.ActivationFunctionType.NONE
        operator.builtinOptionsType = schema.BuiltinOptions.DepthwiseConv2DOptions
        operator.builtinOptions = options
        return operator
