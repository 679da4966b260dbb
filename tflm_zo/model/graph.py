# SPDX-License-Identifier: Apache-2.0
"""Reads the graph of an int8 ``.tflite`` model into plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model
from tflm_zo.model.schema import schema

_DTYPES: dict[int, str] = {
    schema.TensorType.INT8: "<i1",
    schema.TensorType.INT32: "<i4",
}


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}


_OPERATORS = _names(schema.BuiltinOperator)
_TYPES = _names(schema.TensorType)
_PADDINGS = _names(schema.Padding)
_ACTIVATIONS = _names(schema.ActivationFunctionType)


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model.

    ``scales`` (float32) and ``zero_points`` have one element, one per channel of
    ``channel_axis``, or none for tensors without quantization. ``data`` is the content of a
    constant, of ``shape``, and None for activations.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    type: str
    scales: np.ndarray = field(repr=False)
    zero_points: np.ndarray = field(repr=False)
    channel_axis: int
    data: np.ndarray | None = field(repr=False)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape without the batch dimension."""
        return self.shape[1:]

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

    Options are those of the schema, in their own names; ``padding`` and
    ``fusedActivationFunction`` as names.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Graph:
    """The only subgraph of a model, operators in the order in which they run."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def _text(name: bytes | str | None) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name or ""


def _read_tensor(model: Any, index: int, raw: Any) -> Tensor:
    name = _text(raw.name)
    shape = () if raw.shape is None else tuple(int(size) for size in raw.shape)
    quantization = raw.quantization
    has_scales = quantization is not None and quantization.scale is not None
    scales = np.asarray(quantization.scale if has_scales else [], dtype=np.float32)
    points = quantization.zeroPoint if has_scales and quantization.zeroPoint is not None else []
    data = None
    buffer = model.buffers[raw.buffer].data
    if buffer is not None and len(buffer) > 0 and raw.type in _DTYPES:
        content = np.frombuffer(bytes(buffer), np.dtype(_DTYPES[raw.type]))
        if content.size != math.prod(shape):
            raise ZoError(f"tensor '{name}' has {content.size} values for shape {shape}")
        data = content.astype(content.dtype.newbyteorder("=")).reshape(shape)
    return Tensor(
        index=index,
        name=name,
        shape=shape,
        type=_TYPES.get(raw.type, str(raw.type)),
        scales=scales,
        zero_points=np.asarray(points, dtype=np.int64),
        channel_axis=int(quantization.quantizedDimension) if has_scales else 0,
        data=data,
    )


def _read_operator(model: Any, index: int, raw: Any) -> Operator:
    code = model.operatorCodes[raw.opcodeIndex]
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    name = _OPERATORS.get(builtin, str(builtin))
    if name == "CUSTOM":
        name = f"CUSTOM {_text(code.customCode)}"
    options = dict(vars(raw.builtinOptions)) if raw.builtinOptions is not None else {}
    if "padding" in options:
        options["padding"] = _PADDINGS.get(options["padding"], str(options["padding"]))
    if "fusedActivationFunction" in options:
        activation = options["fusedActivationFunction"]
        options["fusedActivationFunction"] = _ACTIVATIONS.get(activation, str(activation))

    def indices(values: Any) -> tuple[int, ...]:
        return () if values is None else tuple(int(value) for value in values)

    return Operator(index, name, indices(raw.inputs), indices(raw.outputs), options)


def read_graph(model_bytes: bytes) -> Graph:
    """Parse a ``.tflite`` model with one subgraph.

    Raises :class:`ZoError` if the bytes are not a TFLite model or have several subgraphs.
    """
    model = load_model(model_bytes)
    if len(model.subgraphs) != 1:
        raise ZoError(f"the model has {len(model.subgraphs)} subgraphs; the simulator runs models with one")
    subgraph = model.subgraphs[0]
    return Graph(
        tensors=tuple(_read_tensor(model, i, raw) for i, raw in enumerate(subgraph.tensors)),
        operators=tuple(_read_operator(model, i, raw) for i, raw in enumerate(subgraph.operators or [])),
        inputs=tuple(int(i) for i in subgraph.inputs),
        outputs=tuple(int(i) for i in subgraph.outputs),
    )


def int8_part(graph: Graph) -> Graph:
    """What there is to simulate of a model: its int8 operators, between int8 inputs and outputs.

    Left out are a QUANTIZE of the model's float input and a DEQUANTIZE to its float output, in whose place their int8
    tensors are input and output; and operators that compute nothing but the shape that a RESHAPE is given. Converters
    write those where the batch size is open; TFLite Micro takes the shape of a RESHAPE from its output tensor, so a run
    without them has the same results.
    """
    without = _shape_operators(graph)
    inputs, outputs = list(graph.inputs), list(graph.outputs)
    for op in graph.operators:
        if _is_end(graph, op, "QUANTIZE", op.inputs, op.outputs, inputs):
            inputs[inputs.index(op.inputs[0])] = op.outputs[0]
            without.add(op.index)
        elif _is_end(graph, op, "DEQUANTIZE", op.outputs, op.inputs, outputs):
            outputs[outputs.index(op.outputs[0])] = op.inputs[0]
            without.add(op.index)
    operators = tuple(op for op in graph.operators if op.index not in without)
    return Graph(graph.tensors, operators, tuple(inputs), tuple(outputs))


def _is_end(
    graph: Graph, op: Operator, name: str, outer: tuple[int, ...], inner: tuple[int, ...], ends: list[int]
) -> bool:
    """Whether an operator stands between a float end of the model, which nothing else uses, and an int8 tensor."""
    if op.name != name or outer[0] not in ends:
        return False
    users = sum(outer[0] in (*other.inputs, *other.outputs) for other in graph.operators)
    return users == 1 and graph.tensors[outer[0]].type == "FLOAT32" and graph.tensors[inner[0]].type == "INT8"


def _shape_operators(graph: Graph) -> set[int]:
    found: set[int] = set()
    needed = set(graph.outputs)
    for op in reversed(graph.operators):
        if op.outputs and all(graph.tensors[i].type == "INT32" and i not in needed for i in op.outputs):
            found.add(op.index)
        else:
            needed.update(op.inputs[:1] if op.name == "RESHAPE" else op.inputs)
    return found
