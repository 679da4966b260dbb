# SPDX-License-Identifier: Apache-2.0
"""Layers put in place of others that compute the same codes, for TFLM libraries whose kernels do not.

* A fully connected layer with a scale for each output becomes a 1 x 1 convolution, whose kernel knows such scales in
  every TFLM and rounds as the host's fully connected kernel does. The weights stay where they are.
* A mean over the whole map, which the old kernel computes in single precision, becomes a depthwise convolution with
  equal weights over the map. They are searched until every possible sum gives the host's code.
* A convolution without a bias, which the old kernel takes for granted, gets one of zeros.

A map has another shape than what the layers around it exchange, so a RESHAPE stands before and behind it. Training ops,
to which shapes mean nothing, read the map, so that no sample is kept in two shapes.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from tflm_zo.board.kernel_limits import per_channel_dense
from tflm_zo.board.old_reductions import MeanWeights, mean_weights, reduction_differs
from tflm_zo.model.file import builtin_code, schema, shape_of, tensor_name
from tflm_zo.model.graph import Graph, Operator, main_graph
from tflm_zo.model.quantization import quantization_of
from tflm_zo.ops.layouts import LossInput, NodeInput
from tflm_zo.ops.names import LOSS_OP, NODE_OP, custom_code, is_patched
from tflm_zo.patching.patched_model import parameter_table

_Shape = tuple[int, ...]
# The axis of a convolution's weights that counts its outputs.
_CHANNEL_AXES = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
# Where training ops have the input of the layer that they train.
_READS_LAYER_INPUT: dict[str, int] = {NODE_OP: NodeInput.LAYER_INPUT, LOSS_OP: LossInput.FEATURES}


def replace_layers(tree: Any) -> tuple[str, ...]:
    """Replace the layers of a model's tree that can be, patched or not; returns the names of their outputs."""
    return _Replacement(tree).run()


class _Replacement:
    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self._graph = tree.subgraphs[0]
        # A trained tensor has its initial values in another one, of the same shape.
        self._initial = {p.tensor: p.initial_tensor for p in parameter_table(tree)} if is_patched(tree) else {}

    def run(self) -> tuple[str, ...]:
        graph = main_graph(self._tree)
        operators: list[Any] = []
        replaced: list[str] = []
        for op in graph.operators:
            raw = self._graph.operators[op.index]
            put = self._in_place_of(graph, op, raw)
            operators += put or [raw]
            if put:
                replaced.append(graph.tensors[op.outputs[0]].name)
        self._graph.operators = self._without_detours(operators)
        return tuple(replaced)

    def _without_detours(self, operators: list[Any]) -> list[Any]:
        """Leave out a RESHAPE whose output only another RESHAPE uses."""
        users = Counter(int(i) for op in operators for i in op.inputs)
        users.update(int(i) for i in self._graph.outputs)
        makers = {int(op.outputs[0]): op for op in operators if self._is_reshape(op)}
        left_out = []
        for op in operators:
            ahead = makers.get(int(op.inputs[0])) if self._is_reshape(op) else None
            if ahead is not None and users[int(op.inputs[0])] == 1:
                op.inputs = np.array([ahead.inputs[0], *op.inputs[1:]], np.int32)
                left_out.append(ahead)
        return [op for op in operators if not any(op is other for other in left_out)]

    def _is_reshape(self, operator: Any) -> bool:
        return builtin_code(self._tree, operator) == schema.BuiltinOperator.RESHAPE

    def _in_place_of(self, graph: Graph, op: Operator, raw: Any) -> list[Any] | None:
        """The operators that compute the same; None: the operator stays."""
        if per_channel_dense(graph, op) and graph.tensors[op.inputs[0]].type == "INT8":
            return self._convolution(raw)
        if op.name in _CHANNEL_AXES and len(op.inputs) > 1 and (*op.inputs, -1)[2] < 0:
            x, filters = (int(i) for i in raw.inputs[:2])
            raw.inputs = np.array([x, filters, self._zero_bias(x, filters, _CHANNEL_AXES[op.name])], np.int32)
            return [raw]
        if op.name == "MEAN" and reduction_differs(graph, op):
            size = _whole_map(graph, op)
            weights = None if size is None else mean_weights(graph, op)
            return None if size is None or weights is None else self._depthwise(raw, size, weights)
        return None

    def _convolution(self, raw: Any) -> list[Any]:
        x, weights, y = (int(i) for i in (*raw.inputs[:2], raw.outputs[0]))
        shape = shape_of(self._graph.tensors[weights])
        outputs, inputs = shape[0], shape[-1]
        for index in (weights, self._initial.get(weights, weights)):
            self._graph.tensors[index].shape = np.array([outputs, 1, 1, inputs], np.int32)
        options = schema.Conv2DOptionsT()
        options.fusedActivationFunction = raw.builtinOptions.fusedActivationFunction
        rows = math.prod(shape_of(self._graph.tensors[x])) // inputs
        bias = next((int(i) for i in raw.inputs[2:3] if i >= 0), None)
        layer = self._layer(
            "CONV_2D", options, [x, weights, self._zero_bias(x, weights, 0) if bias is None else bias], y
        )
        return self._with_map(layer, (1, rows, 1, inputs), (1, rows, 1, outputs))

    def _zero_bias(self, x: int, weights: int, axis: int) -> int:
        """A bias of zeros for a convolution, of the scales that its accumulators have."""
        source, filters = (quantization_of(self._graph.tensors[i]) for i in (x, weights))
        scales = None if source is None or filters is None else np.float32(source.scale) * filters.scales
        tensor = self._graph.tensors[weights]
        zeros = np.zeros(shape_of(tensor)[axis], np.int32)
        return self._constant(f"{tensor_name(tensor)}/bias", zeros, scales)

    def _depthwise(self, raw: Any, size: _Shape, found: MeanWeights) -> list[Any]:
        x, y = int(raw.inputs[0]), int(raw.outputs[0])
        height, width, channels = size
        name = f"{tensor_name(self._graph.tensors[y])}/mean"
        weights = self._constant(f"{name}/weights", np.full((1, *size), found.weight, np.int8), found.scale)
        bias = self._constant(f"{name}/bias", np.full(channels, found.bias, np.int32), found.bias_scale)
        options = schema.DepthwiseConv2DOptionsT()
        options.depthMultiplier = 1
        layer = self._layer("DEPTHWISE_CONV_2D", options, [x, weights, bias], y)
        return self._with_map(layer, (1, height, width, channels), (1, 1, 1, channels))

    def _layer(self, name: str, options: Any, inputs: list[int], output: int) -> Any:
        options.padding = schema.Padding.VALID
        options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
        return self._operator(name, options, inputs, output)

    def _with_map(self, layer: Any, input_shape: _Shape, output_shape: _Shape) -> list[Any]:
        """A layer on maps, between RESHAPEs where its input and output have other shapes."""
        x, y = int(layer.inputs[0]), int(layer.outputs[0])
        operators = [layer]
        if shape_of(self._graph.tensors[x]) != input_shape:
            layer.inputs[0] = self._reshaped(x, input_shape)
            operators.insert(0, self._reshape(x, int(layer.inputs[0])))
            self._let_training_read(x, int(layer.inputs[0]))
        if shape_of(self._graph.tensors[y]) != output_shape:
            layer.outputs[0] = self._reshaped(y, output_shape)
            operators.append(self._reshape(int(layer.outputs[0]), y))
        return operators

    def _let_training_read(self, tensor: int, reshaped: int) -> None:
        for operator in self._graph.operators:
            position = _READS_LAYER_INPUT.get(custom_code(self._tree, operator))
            if position is not None and int(operator.inputs[position]) == tensor:
                inputs = operator.inputs.copy()  # a loaded model's are read-only
                inputs[position] = reshaped
                operator.inputs = inputs

    def _reshaped(self, index: int, shape: _Shape) -> int:
        """A tensor of the same values with another shape."""
        origin = self._graph.tensors[index]
        return self._tensor(f"{tensor_name(origin)}/map", origin.type, shape, origin.quantization, buffer=0)

    def _reshape(self, source: int, target: int) -> Any:
        shape = np.array(shape_of(self._graph.tensors[target]), np.int32)
        options = schema.ReshapeOptionsT()
        options.newShape = shape
        name = f"{tensor_name(self._graph.tensors[target])}/shape"
        return self._operator("RESHAPE", options, [source, self._constant(name, shape, None)], target)

    def _constant(self, name: str, values: np.ndarray, scale: np.ndarray | np.float32 | None) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._tree.buffers.append(buffer)
        quantization = None
        if scale is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
            quantization.zeroPoint = np.zeros(quantization.scale.size, np.int64)
        kind = schema.TensorType.INT8 if values.dtype == np.int8 else schema.TensorType.INT32
        return self._tensor(name, kind, values.shape, quantization, buffer=len(self._tree.buffers) - 1)

    def _tensor(self, name: str, kind: int, shape: _Shape, quantization: Any, *, buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.buffer, tensor.hasRank = name, kind, buffer, True
        tensor.shape = np.array(shape, np.int32)
        tensor.quantization = quantization
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _operator(self, name: str, options: Any, inputs: list[int], output: int) -> Any:
        code = getattr(schema.BuiltinOperator, name)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(code)
        operator.inputs = np.array(inputs, np.int32)
        operator.outputs = np.array([output], np.int32)
        operator.builtinOptions = options
        kind = type(options).__name__.removesuffix("T")
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        return operator

    def _code(self, builtin: int) -> int:
        for index, code in enumerate(self._tree.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        # Versions with scales a channel; 1 is that of RESHAPE. TFLM looks at none.
        code.version = 1 if builtin == schema.BuiltinOperator.RESHAPE else 3
        self._tree.operatorCodes.append(code)
        return len(self._tree.operatorCodes) - 1


def _whole_map(graph: Graph, op: Operator) -> tuple[int, int, int] | None:
    """Height, width and channels where a MEAN is over all positions of a map or a series; None where it is not."""
    shape = graph.tensors[op.inputs[0]].shape
    axes = graph.tensors[op.inputs[1]].data
    if axes is None or len(shape) not in (3, 4) or shape[0] != 1:
        return None
    reduced = {int(axis) % len(shape) for axis in axes.ravel()}
    if reduced != set(range(1, len(shape) - 1)):
        return None
    height, width = shape[1:3] if len(shape) == 4 else (1, shape[1])
    return height, width, shape[-1]
