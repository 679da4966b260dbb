# SPDX-License-Identifier: Apache-2.0
"""One operator on its way into the engine: its tensors, checked, and what the simulator says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.activation import activation_range
from tflm_zo.model.graph import Graph, Operator, Tensor
from tflm_zo.model.quantization import INT8_MAX, INT8_MIN
from tflm_zo.model.window import Geometry, read_geometry
from tflm_zo.simulator.engine import Engine, Operand
from tflm_zo.simulator.fixed_point import Multiplier
from tflm_zo.simulator.sim_layer import SimLayer

Constants = Callable[[int], np.ndarray]


class Context:
    """One operator with the tensors it connects; errors name the operator."""

    def __init__(self, engine: Engine, graph: Graph, op: Operator, index: int, constants: Constants) -> None:
        self.engine = engine
        self.graph = graph
        self.op = op
        self.index = index
        self.constants = constants

    def fail(self, why: str) -> ZoError:
        """Return the error that names the operator."""
        return self.op.fail(why)

    def activation(self, index: int) -> Tensor:
        """A tensor that is computed: int8 with one scale."""
        tensor = self.graph.tensors[index] if index >= 0 else None
        if tensor is None or tensor.data is not None:
            raise self.fail("an input that must be computed is a constant or missing")
        if tensor.type != "INT8" or tensor.scales.size != 1:
            raise self.fail(f"tensor '{tensor.name}' is not an int8 tensor with one scale; quantize the model fully")
        if tensor.sample_size < 1:
            raise self.fail(f"tensor '{tensor.name}' has no elements")
        return tensor

    def image(self, index: int) -> Tensor:
        """A tensor that is computed, of shape (1, height, width, channels)."""
        tensor = self.activation(index)
        if len(tensor.shape) != 4 or tensor.shape[0] != 1:
            raise self.fail(
                f"tensor '{tensor.name}' has shape {tensor.shape}; four dimensions, the first 1, are needed"
            )
        return tensor

    @property
    def input(self) -> int:
        """Index of the first input."""
        return self.op.inputs[0]

    @property
    def output(self) -> int:
        """Index of the output."""
        return self.op.outputs[0]

    def weights(self) -> tuple[Tensor, np.ndarray]:
        """The second input, constant int8 with zero point 0, and the array that the engine computes with."""
        tensor = self.graph.tensors[self.op.inputs[1]]
        if tensor.type != "INT8" or tensor.data is None:
            raise self.fail(f"weights '{tensor.name}' are {tensor.type} or not constant; constant int8 is needed")
        if tensor.scales.size < 1 or np.any(tensor.zero_points != 0):
            raise self.fail(f"weights '{tensor.name}' must be quantized symmetrically, with zero point 0")
        return tensor, self.constants(tensor.index)

    def bias(self, channels: int, position: int = 2) -> np.ndarray | None:
        """The array of an int32 bias that may be left out."""
        if len(self.op.inputs) <= position or self.op.inputs[position] < 0:
            return None
        tensor = self.graph.tensors[self.op.inputs[position]]
        if tensor.type != "INT32" or tensor.data is None or tensor.data.size != channels:
            raise self.fail(f"bias '{tensor.name}' must be a constant of {channels} int32 values")
        return self.constants(tensor.index)

    def constant(self, position: int, kind: str) -> np.ndarray:
        """The values of an input that must be a constant of type ``kind``."""
        tensor = self.graph.tensors[self.op.inputs[position]]
        if tensor.type != kind or tensor.data is None:
            raise self.fail(f"tensor '{tensor.name}' must be a constant of type {kind}")
        return tensor.data

    def activation_range(self) -> tuple[int, int]:
        """The codes to which the fused activation limits the output."""
        output = self.activation(self.output)
        return activation_range(self.op.activation, output.scale, output.zero_point)

    def geometry(self, kernel: tuple[int, int] | None = None) -> Geometry:
        """How the window slides: of a pooling, or with the ``kernel`` of a convolution's weights."""
        return read_geometry(self.op, self.image(self.input), self.image(self.output), kernel)

    def layer(
        self,
        *,
        geometry: Geometry | None = None,
        activation: tuple[int, int] = (INT8_MIN, INT8_MAX),
        weights: tuple[Tensor, np.ndarray] | None = None,
        bias: np.ndarray | None = None,
        multipliers: Sequence[Multiplier] | None = None,
        inputs: tuple[int, ...] | None = None,
    ) -> SimLayer:
        """What the simulator says of the operator; ``inputs``: of those that are computed, the first by default."""
        significands = shifts = None
        if multipliers is not None:
            significands = np.array([m.significand for m in multipliers], np.int64)
            shifts = np.array([m.left_shift - m.right_shift for m in multipliers], np.int64)
        return SimLayer(
            index=self.index,
            op=self.op.name,
            inputs=(self.input,) if inputs is None else inputs,
            output=self.output,
            activation=self.op.activation,
            weights=None if weights is None else weights[1],
            bias=bias,
            weight_scales=None if weights is None else weights[0].scales,
            multipliers=significands,
            shifts=shifts,
            activation_min=activation[0],
            activation_max=activation[1],
            geometry=geometry,
        )

    def same_scale(self, one: int, other: int) -> None:
        """Raise :class:`ZoError` if two tensors do not mean the same by a code."""
        first, second = self.graph.tensors[one], self.graph.tensors[other]
        if first.scale != second.scale or first.zero_point != second.zero_point:
            raise self.fail(f"'{first.name}' and '{second.name}' must have the same scale and zero point")

    def operand(self, index: int) -> tuple[Tensor, Operand]:
        """An input of an elementwise operator, which must fit the output's shape by broadcasting."""
        tensor = self.graph.tensors[index]
        shape = self.activation(self.output).shape
        if tensor.data is None:
            self.activation(index)
        elif tensor.type != "INT8" or tensor.scales.size != 1:
            raise self.fail(f"constant '{tensor.name}' is not an int8 tensor with one scale; quantize the model fully")
        places = None
        if tensor.shape != shape:
            numbers = np.arange(math.prod(tensor.shape), dtype=np.int32).reshape(tensor.shape)
            try:
                places = np.ascontiguousarray(np.broadcast_to(numbers, shape))
            except ValueError:
                raise self.fail(f"operand '{tensor.name}' of shape {tensor.shape} does not fit {shape}") from None
        return tensor, Operand(-1 if tensor.data is not None else index, tensor.data, places)
