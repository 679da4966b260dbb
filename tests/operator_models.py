# SPDX-License-Identifier: Apache-2.0
"""Small models made operator by operator, and TFLite Micro to compare the simulator with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
from tflite_micro.python.tflite_micro import runtime
from tflite_micro.tensorflow.lite.python import schema_py_generated as schema

from tflm_zo.simulator.model import SimModel

ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")


@dataclass
class Builder:
    """Collects tensors and operators; ``build`` packs them into a .tflite model."""

    model: Any = field(default_factory=schema.ModelT)
    graph: Any = field(default_factory=schema.SubGraphT)

    def __post_init__(self) -> None:
        self.model.version = 3
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.graph.tensors = []
        self.graph.operators = []
        self.graph.name = b"main"

    def tensor(
        self,
        shape: tuple[int, ...],
        scales: float | np.ndarray,
        zero_point: int = 0,
        axis: int = 0,
        data: np.ndarray | None = None,
        kind: int = schema.TensorType.INT8,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name = f"t{len(self.graph.tensors)}".encode()
        tensor.shape = list(shape)
        tensor.type = kind
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.atleast_1d(np.asarray(scales, np.float32)).tolist()
        tensor.quantization.zeroPoint = [zero_point] * len(tensor.quantization.scale)
        tensor.quantization.quantizedDimension = axis
        tensor.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(
        self, name: str, inputs: list[int], output: int | list[int], options: Any = None, kind: str = ""
    ) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 1
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes)
        operator.inputs = inputs
        operator.outputs = [output] if isinstance(output, int) else output
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = options
        self.model.operatorCodes.append(code)
        self.graph.operators.append(operator)

    def build(self, inputs: list[int], outputs: list[int]) -> bytes:
        self.graph.inputs = inputs
        self.graph.outputs = outputs
        self.model.subgraphs = [self.graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def activation_code(name: str) -> int:
    return getattr(schema.ActivationFunctionType, name)


def conv_options(depthwise: bool, padding: str, stride: Any, dilation: Any, activation: str) -> Any:
    options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
    options.padding = getattr(schema.Padding, padding)
    options.strideH, options.strideW = stride
    options.dilationHFactor, options.dilationWFactor = dilation
    options.fusedActivationFunction = activation_code(activation)
    return options


def int8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-128, 128, shape, dtype=np.int8)


def output_size(padding: str, size: int, kernel: int, stride: int, dilation: int) -> int:
    effective = (kernel - 1) * dilation + 1
    return math.ceil(size / stride) if padding == "SAME" else math.ceil((size - effective + 1) / stride)


class Wheel:
    """TFLite Micro's interpreter, every tensor readable after an invocation."""

    def __init__(self, model: bytes) -> None:
        self._interpreter = runtime.Interpreter.from_bytes(
            model,
            arena_size=10 * len(model) + (4 << 20),
            intrepreter_config=runtime.InterpreterConfig.kPreserveAllTensors,
        )

    def run(self, *inputs: np.ndarray) -> np.ndarray:
        """Inputs and output: int8 [batch, ...]."""
        outputs = []
        for samples in zip(*inputs, strict=True):
            self.invoke(*(sample[None] for sample in samples))
            outputs.append(self._interpreter.get_output(0))
        return np.concatenate(outputs)

    def invoke(self, *inputs: np.ndarray) -> None:
        """Run one sample, from a cleared state. Inputs: int8 [1, ...]."""
        self._interpreter.reset()
        for position, sample in enumerate(inputs):
            self._interpreter.set_input(sample, position)
        self._interpreter.invoke()

    def tensor(self, index: int) -> np.ndarray:
        return self._interpreter.GetTensor(index, 0)["tensor_data"]


def random_scales(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.exp(rng.uniform(np.log(0.002), np.log(0.02), count)).astype(np.float32)


def assert_same(model: bytes, instruction_set: str, *inputs: np.ndarray) -> np.ndarray:
    """Compare outputs on ``inputs``; returns them, for tests that want to know they are not trivial."""
    simulated = SimModel(model, instruction_set)
    by_index = dict(zip(simulated.inputs, inputs, strict=True))
    ours = simulated.run_layers(0, len(simulated.layers), by_index).tensors[simulated.outputs[0]]
    np.testing.assert_array_equal(ours, Wheel(model).run(*inputs))
    return ours
