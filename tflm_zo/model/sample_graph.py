# SPDX-License-Identifier: Apache-2.0
"""What a model does with one sample, in operators of one output each.

A streaming model that is reset before each sample reads the initial values of its variables. A variable is what
VAR_HANDLE names, READ_VARIABLE reads and ASSIGN_VARIABLE writes; a second subgraph, which CALL_ONCE runs, gives the
initial values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model, text_of
from tflm_zo.model.graph import Graph, Operator, Tensor, main_graph, read_subgraph

_ON_VARIABLES = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE")


def sample_graph(model_bytes: bytes) -> Graph:
    """Return what the main subgraph of a ``.tflite`` model does with a single sample, from a cleared state.

    Operators with several outputs are taken apart: there is one for each output, and its option ``part`` says which.
    What reads a variable is a constant, or what was assigned before in the same pass; what only leads to an assignment
    is left out. Raises :class:`ZoError` if the bytes are not a TFLite model, have subgraphs for other purposes, or
    variables that are not int8.
    """
    tree = load_model(model_bytes)
    graph = main_graph(tree)
    once = [int(op.options["initSubgraphIndex"]) for op in graph.operators if op.name == "CALL_ONCE"]
    if len(tree.subgraphs) != 1 + len(once):
        raise ZoError(
            f"the model has {len(tree.subgraphs)} subgraphs; the simulator runs models with one, beside those that "
            "initialize variables"
        )
    if any(op.name in _ON_VARIABLES for op in graph.operators):
        graph = _without_variables(tree, graph, once)
    return replace(graph, operators=tuple(part for op in graph.operators for part in _parts(op)))


def _parts(op: Operator) -> Iterator[Operator]:
    if len(op.outputs) < 2 or op.name.startswith("CUSTOM"):
        yield op
        return
    for part, output in enumerate(op.outputs):
        yield replace(op, outputs=(output,), options={**op.options, "part": part})


def _without_variables(tree: Any, graph: Graph, once: list[int]) -> Graph:
    initial: dict[str, Tensor] = {}
    for number in once:
        initial |= _initial_values(tree, number)
    names = _names(tree, 0, graph)
    tensors = list(graph.tensors)
    assigned: dict[str, int] = {}
    operators: list[Operator] = []
    for op in graph.operators:
        name = names.get(op.inputs[0], "") if op.inputs else ""
        if op.name == "ASSIGN_VARIABLE":
            assigned[name] = op.inputs[1]
        elif op.name == "READ_VARIABLE" and name in assigned:
            operators.append(replace(op, name="RESHAPE", inputs=(assigned[name],), options={}))
        elif op.name == "READ_VARIABLE":
            tensors[op.outputs[0]] = _constant(op, tensors[op.outputs[0]], initial.get(name))
        elif op.name not in _ON_VARIABLES:
            operators.append(op)
    return replace(graph, tensors=tuple(tensors), operators=_needed(operators, graph.outputs))


def _names(tree: Any, number: int, graph: Graph) -> dict[int, str]:
    """The name of the variable that each handle of a subgraph stands for."""
    raw = tree.subgraphs[number].operators
    return {
        op.outputs[0]: text_of(raw[op.index].builtinOptions.sharedName)
        for op in graph.operators
        if op.name == "VAR_HANDLE"
    }


def _initial_values(tree: Any, number: int) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    graph = read_subgraph(tree, number)
    names = _names(tree, number, graph)
    for op in graph.operators:
        if op.name == "ASSIGN_VARIABLE":
            values[names[op.inputs[0]]] = graph.tensors[op.inputs[1]]
        elif op.name != "VAR_HANDLE":
            raise ZoError(f"subgraph {number} computes initial values by {op.name}; the simulator takes constants")
    return values


def _constant(op: Operator, tensor: Tensor, initial: Tensor | None) -> Tensor:
    if tensor.type != "INT8" or not tensor.scales.size:
        raise op.fail(f"variable '{tensor.name}' is {tensor.type}; int8 is needed")
    if initial is None:
        return replace(tensor, content=np.full(tensor.shape, tensor.zero_point, np.int8).reshape(-1).view(np.uint8))
    if initial.data is None or initial.shape != tensor.shape:
        raise op.fail(f"the initial value of variable '{tensor.name}' is no constant of its shape")
    return replace(tensor, content=initial.content)


def _needed(operators: list[Operator], outputs: tuple[int, ...]) -> tuple[Operator, ...]:
    needed, kept = set(outputs), []
    for op in reversed(operators):
        if needed.intersection(op.outputs):
            needed.update(op.inputs)
            kept.append(op)
    return tuple(reversed(kept))
