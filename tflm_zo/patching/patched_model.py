# SPDX-License-Identifier: Apache-2.0
"""Reading a patched model: its parameters, its loss, its inputs and output."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.class_names import read_class_names
from tflm_zo.model.ends import End, input_end, output_end
from tflm_zo.model.file import constant, load_model, shape_of, tensor_name
from tflm_zo.model.graph import main_graph
from tflm_zo.model.labels import Outputs, outputs_of
from tflm_zo.model.layer_names import LayerLabel, label_layers
from tflm_zo.model.quantization import Quantization
from tflm_zo.ops.layouts import LossInput, ModelInput, NodeInput
from tflm_zo.ops.names import INITIAL, LOSS_OP, NODE_OP, PREFIX, custom_code, custom_options, is_patched, moments_words
from tflm_zo.ops.options import (
    KIND_BIAS,
    KIND_DTYPES,
    KIND_WEIGHTS,
    LossOptions,
    NodeOptions,
    ParameterEntry,
    Reference,
    unpack_loss,
    unpack_node,
    unpack_parameters,
)
from tflm_zo.patching.op_check import check_training_ops


@dataclass(frozen=True)
class Parameter:
    """One trainable tensor of a patched model.

    ``name`` is ``layer/weights``, ``layer/bias``, ``layer/residual`` or ``loss/mean_prediction``; ``initial`` holds the
    values in flash, flat (int8 or int32; empty for what starts at 0); ``factors`` is 1 / scale^2 (float32), one
    for each output channel or one for all.
    """

    index: int
    name: str
    layer: str
    entry: ParameterEntry
    tensor: int
    initial_tensor: int
    shape: tuple[int, ...]
    initial: np.ndarray
    factors: np.ndarray

    @property
    def kind(self) -> int:
        """Weights, bias, residual or mean prediction (``op_options.KIND_...``)."""
        return self.entry.kind

    @property
    def in_model(self) -> bool:
        """Whether it is a part of the model, not what training keeps beside it."""
        return self.kind in (KIND_WEIGHTS, KIND_BIAS)

    @property
    def dtype(self) -> np.dtype:
        """Type of its elements."""
        return KIND_DTYPES[self.kind]

    @property
    def count(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    @property
    def arena_bytes(self) -> int:
        """Bytes of its values in the arena."""
        return self.count * self.dtype.itemsize

    @property
    def moments(self) -> int:
        """Floats of the momentum state, 0 if the parameter is trained by plain descent."""
        return moments_words(self.count) if self.entry.moments_input >= 0 else 0


@dataclass(frozen=True)
class Node:
    """A layer that can be trained by its output."""

    number: int
    layer: str
    accumulates: bool
    options: NodeOptions

    @property
    def closed_form(self) -> bool:
        """Whether the head gives the gradient."""
        return self.options.closed_form


@dataclass(frozen=True)
class PatchedModel:
    """What the host needs to know of a patched model; ``head_layer`` is the ordinal of the exact head's layer, -1
    without one; ``reference`` is what the input adapter can be recalibrated by; ``labels`` are what the trained layers
    can be called by; ``states`` holds the bytes, by index, of tensors that are cleared in each pass. The output is the
    one that is trained."""

    data: bytes
    parameters: tuple[Parameter, ...]
    nodes: tuple[Node, ...]
    loss: LossOptions
    head_layer: int
    reference: Reference | None
    labels: tuple[LayerLabel, ...]
    states: dict[int, int]
    input: End
    output: End
    outputs: Outputs
    target_shape: tuple[int, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input tensor, [1, ...]."""
        return self.input.shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output tensor, [1, ...]."""
        return self.output.shape

    @property
    def input_quantization(self) -> Quantization | None:
        """Scale and zero point of the input's int8 codes; None for a model without any."""
        return self.input.quantization

    @property
    def output_quantization(self) -> Quantization | None:
        """Scale and zero point of the output's int8 codes; None for a model without any."""
        return self.output.quantization

    @property
    def target_dtype(self) -> np.dtype:
        """Type of the target tensor's elements: int32 for a class, int8 for codes."""
        return np.dtype(np.int32 if self.loss.classes else np.int8)

    @property
    def exact_head(self) -> bool:
        """Whether the head can be trained with its exact gradient."""
        return self.head_layer >= 0

    @property
    def closed_nodes(self) -> range:
        """Numbers of the nodes whose gradient the head gives: the patcher numbers them last, in succession."""
        closed = [node.number for node in self.nodes if node.closed_form]
        return range(closed[0], closed[-1] + 1) if closed else range(0)


def model_hash(model: bytes) -> int:
    """Return what a board calls its model by: the first 8 bytes of the SHA-256, as a big-endian number."""
    return int.from_bytes(hashlib.sha256(model).digest()[:8], "big")


def read_patched(data: bytes) -> PatchedModel:
    """Return the description of a patched model.

    Raises :class:`ZoError` if ``data`` is no model, is not patched, or has more than one input.
    """
    tree = load_model(data)
    if not is_patched(tree):
        raise ZoError("the model has no training ops: patch it first with `tflm-zo patch`")
    graph = tree.subgraphs[0]
    if len(graph.inputs) != 3:
        raise ZoError(f"the model has {len(graph.inputs) - 2} inputs; training needs exactly one")
    check_training_ops(tree)
    described = main_graph(tree)
    output = output_end(described)
    parameters = parameter_table(tree)
    first = graph.operators[0]
    options = unpack_parameters(custom_options(first))
    loss = _loss_operator(tree)
    return PatchedModel(
        data=bytes(data),
        parameters=tuple(parameters),
        nodes=tuple(_nodes(tree, parameters)),
        loss=unpack_loss(custom_options(loss)),
        head_layer=_head_layer(loss, parameters),
        reference=options.reference,
        labels=tuple(_labels(tree, parameters)),
        states={int(first.inputs[state.input]): int(state.bytes) for state in options.states},
        input=input_end(described),
        output=output,
        outputs=outputs_of(described, output, read_class_names(tree)),
        target_shape=shape_of(graph.tensors[graph.inputs[ModelInput.TARGET_INPUT]]),
    )


def trained_output(tree: Any) -> int:
    """Return the place, among the outputs of the original, of the output that a patched model's tree is trained for."""
    return int(unpack_loss(custom_options(_loss_operator(tree))).output)


def _loss_operator(tree: Any) -> Any:
    return next(op for op in tree.subgraphs[0].operators if custom_code(tree, op) == LOSS_OP)


def _head_layer(loss: Any, parameters: list[Parameter]) -> int:
    inputs = (LossInput.HEAD_WEIGHTS, LossInput.HEAD_BIAS, LossInput.RESIDUAL)
    weights, bias, residual = (int(loss.inputs[i]) for i in inputs)
    head = weights if residual >= 0 else bias
    trains = residual >= 0 or unpack_loss(custom_options(loss)).trains_bias
    return next((p.entry.layer for p in parameters if trains and p.tensor == head), -1)


def _labels(tree: Any, parameters: list[Parameter]) -> list[LayerLabel]:
    """The labels of the trained layers, with the names that the patched model has for them."""
    graph = main_graph(tree)
    found = label_layers(graph)
    layers = {p.layer: p.tensor for p in reversed(parameters) if p.in_model}
    labels = []
    for name, tensor in reversed(layers.items()):
        # Of layers that share a tensor the first has given it its name.
        index = next((i for i in found if tensor in graph.operators[i].inputs), -1)
        label = found.get(index, LayerLabel(name, -1, name, name, ""))
        labels.append(replace(label, name=name))
    return labels


def _nodes(tree: Any, parameters: list[Parameter]) -> list[Node]:
    graph = tree.subgraphs[0]
    layers = {p.tensor: p.layer for p in parameters}
    nodes = []
    for operator in graph.operators:
        if custom_code(tree, operator) == NODE_OP:
            options: NodeOptions = unpack_node(custom_options(operator))
            inputs = (NodeInput.WEIGHTS, NodeInput.BIAS, NodeInput.ACCUMULATOR)
            weights, bias, accumulator = (int(operator.inputs[i]) for i in inputs)
            trained = weights if weights >= 0 else bias
            nodes.append(Node(options.node, layers[trained], accumulator >= 0, options))
    return nodes


def parameter_table(tree: Any) -> list[Parameter]:
    """Return the parameters of a patched model's tree, in the order of the parameter op's table."""
    graph = tree.subgraphs[0]
    operator = graph.operators[0]
    options = unpack_parameters(custom_options(operator))
    entries, factors = options.entries, options.factors
    table: list[Parameter] = []
    layer_names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        tensor = int(operator.inputs[entry.variable_input])
        if entry.initial_input < 0:
            layer_names.setdefault(entry.layer, "loss")
            initial_tensor, role = -1, tensor_name(graph.tensors[tensor]).removeprefix(PREFIX)
            name = f"{layer_names[entry.layer]}/{role}"
            initial = np.zeros(0, dtype=np.int8)
        else:
            initial_tensor = int(operator.inputs[entry.initial_input])
            name = tensor_name(graph.tensors[initial_tensor]).removeprefix(INITIAL)
            layer_names[entry.layer] = name.rsplit("/", 1)[0]
            values = constant(tree, graph.tensors[initial_tensor], KIND_DTYPES[entry.kind])
            if values is None:
                raise ZoError(f"{name}: the patched model holds no initial values: patch the original again")
            initial = values
        table.append(
            Parameter(
                index=index,
                name=name,
                layer=layer_names[entry.layer],
                entry=entry,
                tensor=tensor,
                initial_tensor=initial_tensor,
                shape=shape_of(graph.tensors[tensor]),
                initial=initial,
                factors=factors[entry.factor_offset : entry.factor_offset + entry.factor_count],
            )
        )
    return table
