# SPDX-License-Identifier: Apache-2.0
"""The training ops of a patched model, and how they hang together with its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tflm_zo.model.graph import Graph
from tflm_zo.ops.layouts import LossInput, ModelOutput, NodeInput
from tflm_zo.ops.names import LOSS_OP, NODE_OP, OP_PREFIX, custom_code, custom_options
from tflm_zo.ops.options import NodeOptions, unpack_loss, unpack_node


@dataclass(frozen=True)
class TrainingOp:
    """A training op: tensor indices of the patched model (-1: left out) and its custom options."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: bytes


@dataclass(frozen=True)
class TrainingNode:
    """A node op behind layer ``layer``; ``first_change`` is the first layer with a tensor that it updates."""

    op: TrainingOp
    number: int
    layer: int
    first_change: int
    input: int
    output: int
    closed_form: bool
    accumulates: bool


@dataclass(frozen=True)
class TrainingGraph:
    """What training adds to a model. Layers are counted as in :class:`SimModel`, tensors as in the patched model.

    ``users`` holds the first and last layer that compute with a tensor; ``layers`` is how many lead to the logits;
    ``head_layer`` is the layer that the loss op updates, -1 if it is frozen; ``features`` is -1 without a head.
    """

    parameter_op: TrainingOp
    loss_op: TrainingOp
    nodes: tuple[TrainingNode, ...]
    users: dict[int, tuple[int, int]]
    layers: int
    head_layer: int
    command: int
    target: int
    report: int
    input: int
    logits: int
    features: int
    output: int

    @property
    def named(self) -> frozenset[int]:
        """The tensors that training ops name."""
        ops = (self.parameter_op, self.loss_op, *(node.op for node in self.nodes))
        return frozenset(index for op in ops for index in (*op.inputs, *op.outputs) if index >= 0)


def read_training_graph(tree: Any, part: Graph) -> TrainingGraph:
    """Return the training graph of a patched model's tree; ``part``: the model's :func:`int8_part`."""
    graph = tree.subgraphs[0]
    users: dict[int, tuple[int, int]] = {}
    producer: dict[int, int] = {}
    training = []
    layer = 0
    for op in part.operators:
        operator = graph.operators[op.index]
        if custom_code(tree, operator).startswith(OP_PREFIX):
            training.append(operator)
            continue
        for index in op.inputs:
            users[index] = (users.get(index, (layer, layer))[0], layer)
        producer.update(dict.fromkeys(op.outputs, layer))
        layer += 1

    nodes = []
    for operator in training:
        if custom_code(tree, operator) == NODE_OP:
            nodes.append(_node(_op(operator), users))
    loss = _op(next(op for op in training if custom_code(tree, op) == LOSS_OP))
    trains_head = loss.inputs[LossInput.RESIDUAL] >= 0 or unpack_loss(loss.options).trains_bias
    return TrainingGraph(
        parameter_op=_op(training[0]),
        loss_op=loss,
        nodes=tuple(nodes),
        users=users,
        layers=producer[loss.inputs[LossInput.LOGITS]] + 1,
        head_layer=users[loss.inputs[LossInput.HEAD_WEIGHTS]][0] if trains_head else -1,
        command=int(graph.inputs[-2]),
        target=int(graph.inputs[-1]),
        report=int(graph.outputs[ModelOutput.REPORT_OUTPUT]),
        input=part.inputs[0],
        logits=loss.inputs[LossInput.LOGITS],
        features=loss.inputs[LossInput.FEATURES],
        output=part.outputs[0],
    )


def _op(operator: Any) -> TrainingOp:
    def indices(values: Any) -> tuple[int, ...]:
        return tuple(int(i) for i in values)

    return TrainingOp(indices(operator.inputs), indices(operator.outputs), custom_options(operator))


def _node(op: TrainingOp, users: dict[int, tuple[int, int]]) -> TrainingNode:
    options: NodeOptions = unpack_node(op.options)
    updated = [users[op.inputs[i]] for i in (NodeInput.WEIGHTS, NodeInput.BIAS) if op.inputs[i] >= 0]
    return TrainingNode(
        op=op,
        number=options.node,
        layer=updated[0][0],
        first_change=min(first for first, _ in updated),
        input=op.inputs[NodeInput.LAYER_INPUT],
        output=op.inputs[NodeInput.LAYER_OUTPUT],
        closed_form=options.closed_form,
        accumulates=op.inputs[NodeInput.ACCUMULATOR] >= 0,
    )
