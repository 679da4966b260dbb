# SPDX-License-Identifier: Apache-2.0
"""Reads the graph of a ``.tflite`` model into plain data.

What reads a model reads it through :class:`Graph`; what changes one edits its tree
(:func:`tflm_zo.model.file.load_model`), and both see the same tensors and operators by the same indices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import builtin_code, builtin_name, shape_of, tensor_name, text_of
from tflm_zo.model.quantization import Quantization, checked_quantization, decode_quantization
from tflm_zo.model.schema import schema

# Operators that give the same codes in another shape.
SHAPES_ONLY = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")

_DTYPES: dict[str, Any] = {"INT8": np.dtype(np.int8), "INT32": np.dtype("<i4")}


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}


_TYPES = _names(schema.TensorType)
_PADDINGS = _names(schema.Padding)
_ACTIVATIONS = _names(schema.ActivationFunctionType)


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model.

    ``scales`` (float32) and ``zero_points`` have one element, one per channel, or none for tensors without
    quantization. ``content`` holds the bytes (uint8) of a constant, and is None for activations.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    type: str
    scales: np.ndarray = field(repr=False)
    zero_points: np.ndarray = field(repr=False)
    content: np.ndarray | None = field(repr=False)

    @cached_property
    def data(self) -> np.ndarray | None:
        """The values of an int8 or int32 constant, of ``shape``; None for all others.

        Raises :class:`ZoError` if their number is another than that of the shape.
        """
        dtype = _DTYPES.get(self.type)
        if self.content is None or dtype is None:
            return None
        if self.content.size != math.prod(self.shape) * dtype.itemsize:
            count = self.content.size // dtype.itemsize
            raise ZoError(f"tensor '{self.name}' has {count} values for shape {self.shape}")
        values: np.ndarray = np.ascontiguousarray(self.content).view(dtype)
        return values.astype(dtype.newbyteorder("=")).reshape(self.shape)

    @property
    def quantization(self) -> Quantization | None:
        """Scales and zero point, None without a scale. Raises :class:`ZoError` for those that no tensor can have."""
        return checked_quantization(self.scales, self.zero_points, self.name)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape without the batch dimension; the whole of it where an operator has moved or dropped that."""
        return self.shape[1:] if self.shape[:1] == (1,) else self.shape

    @property
    def sample_size(self) -> int:
        """Number of elements of one sample."""
        return math.prod(self.sample_shape)

    @property
    def scale(self) -> np.float32:
        """The scale of a tensor with one scale. Raises :class:`ZoError` for others."""
        if self.scales.size != 1:
            raise ZoError(f"tensor '{self.name}' has {self.scales.size} scales where one is needed")
        scale: np.float32 = self.scales[0]
        return scale

    @property
    def zero_point(self) -> int:
        """The zero point of a tensor with one scale; 0 if it has none."""
        return int(self.zero_points[0]) if self.zero_points.size else 0


@dataclass(frozen=True)
class Operator:
    """An operator: its name in the schema, tensor indices (-1: left out) and options.

    Options are those of the schema's table ``options_type`` ("" without), in their own names; ``padding`` and
    ``fusedActivationFunction`` as names. ``intermediates``: tensors that only say how an LSTM's gates are quantized.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options_type: str
    options: dict[str, Any]
    intermediates: tuple[int, ...] = ()

    @property
    def activation(self) -> str:
        """The schema's name of the fused activation function, "NONE" for operators without such an option."""
        return str(self.options.get("fusedActivationFunction", "NONE"))

    def fail(self, why: str) -> ZoError:
        """Return the error that names the operator."""
        return ZoError(f"operator {self.index} ({self.name}): {why}")


@dataclass(frozen=True)
class Graph:
    """A subgraph of a model, operators in the order in which they run."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def _indices(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)


def read_tensor(tree: Any, index: int, number: int = 0) -> Tensor:
    """Return a tensor of a subgraph of a model's tree, the main one by default."""
    raw = tree.subgraphs[number].tensors[index]
    scales, zero_points = decode_quantization(raw)
    content = tree.buffers[raw.buffer].data
    return Tensor(
        index=index,
        name=tensor_name(raw),
        shape=shape_of(raw),
        type=_TYPES.get(raw.type, str(raw.type)),
        scales=scales,
        zero_points=zero_points,
        content=None if content is None or len(content) == 0 else np.asarray(content, np.uint8),
    )


def read_operator(tree: Any, index: int, number: int = 0) -> Operator:
    """Return an operator of a subgraph of a model's tree, the main one by default."""
    raw = tree.subgraphs[number].operators[index]
    name = builtin_name(builtin_code(tree, raw))
    if name == "CUSTOM":
        name = f"CUSTOM {text_of(tree.operatorCodes[raw.opcodeIndex].customCode)}"
    found = raw.builtinOptions
    options = dict(vars(found)) if found is not None else {}
    for key, names in (("padding", _PADDINGS), ("fusedActivationFunction", _ACTIVATIONS)):
        if key in options:
            options[key] = names.get(options[key], str(options[key]))
    kind = "" if found is None else type(found).__name__.removesuffix("T")
    inner = _indices(raw.intermediates)
    return Operator(index, name, _indices(raw.inputs), _indices(raw.outputs), kind, options, inner)


def main_graph(tree: Any) -> Graph:
    """Return the main subgraph of a model's tree."""
    return read_subgraph(tree, 0)


def read_subgraph(tree: Any, number: int) -> Graph:
    """Return a subgraph of a model's tree."""
    subgraph = tree.subgraphs[number]
    return Graph(
        tensors=tuple(read_tensor(tree, i, number) for i in range(len(subgraph.tensors))),
        operators=tuple(read_operator(tree, i, number) for i in range(len(subgraph.operators or []))),
        inputs=_indices(subgraph.inputs),
        outputs=_indices(subgraph.outputs),
    )


def int8_part(graph: Graph) -> Graph:
    """What there is to simulate of a model: its int8 operators, between int8 inputs and outputs.

    Left out are a QUANTIZE of the model's float or uint8 input and what makes its float or uint8 output
    (:func:`changes_type`), in whose place their int8 tensors are input and output; and operators that compute nothing
    but the shape that a RESHAPE is given. Converters write those where the batch size is open; TFLite Micro takes the
    shape of a RESHAPE from its output tensor, so a run without them has the same results.
    """
    without = _shape_operators(graph)
    inputs, outputs = list(graph.inputs), list(graph.outputs)
    for op in graph.operators:
        if _is_end(graph, op, op.inputs, op.outputs, inputs):
            inputs[inputs.index(op.inputs[0])] = op.outputs[0]
            without.add(op.index)
        elif _is_end(graph, op, op.outputs, op.inputs, outputs):
            outputs[outputs.index(op.outputs[0])] = op.inputs[0]
            without.add(op.index)
    operators = tuple(op for op in graph.operators if op.index not in without)
    return Graph(graph.tensors, operators, tuple(inputs), tuple(outputs))


def _is_end(graph: Graph, op: Operator, outer: tuple[int, ...], inner: tuple[int, ...], ends: list[int]) -> bool:
    """Whether an operator stands between a float or uint8 end of the model, which nothing else uses, and an int8
    tensor."""
    if not changes_type(graph, op, outer, inner) or outer[0] not in ends:
        return False
    return sum(outer[0] in (*other.inputs, *other.outputs) for other in graph.operators) == 1


def changes_type(graph: Graph, op: Operator, outer: tuple[int, ...], inner: tuple[int, ...]) -> bool:
    """Whether ``op`` makes int8 ``inner`` of float or uint8 ``outer``, or the reverse, and changes nothing but the
    type: codes of uint8 are those of int8 plus 128."""
    if op.name not in ("QUANTIZE", "DEQUANTIZE") or len(outer) != 1 or len(inner) != 1:
        return False
    there, here = graph.tensors[outer[0]], graph.tensors[inner[0]]
    if here.type != "INT8" or here.scales.size != 1:
        return False
    if there.type == "UINT8":
        same = there.scales.size == 1 and there.scale == here.scale
        return same and there.zero_point == here.zero_point + 128
    return there.type == "FLOAT32"


def _shape_operators(graph: Graph) -> set[int]:
    found: set[int] = set()
    needed = set(graph.outputs)
    for op in reversed(graph.operators):
        if op.outputs and all(graph.tensors[i].type == "INT32" and i not in needed for i in op.outputs):
            found.add(op.index)
        else:
            needed.update(op.inputs[:1] if op.name == "RESHAPE" else op.inputs)
    return found
