# SPDX-License-Identifier: Apache-2.0
"""Baking: trained weights written back into a plain int8 ``.tflite``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model, save_model, schema, tensor_name
from tflm_zo.ops.names import OP_PREFIX, PREFIX, custom_code, is_patched
from tflm_zo.patching.op_check import check_training_ops
from tflm_zo.patching.patched_model import parameter_table, trained_output


def bake(patched: bytes, values: Mapping[int, np.ndarray]) -> bytes:
    """Return the model that ``patched`` was made from, with trained weights.

    ``values`` maps indices of the parameter table to int8 weights or int32 biases of any shape; parameters that are
    not named keep their initial values. Raises :class:`ZoError` if ``patched`` is not a patched model or a value
    does not fit its tensor.
    """
    tree = load_model(patched)
    if not is_patched(tree):
        raise ZoError("the model is not patched: there is nothing to bake")
    check_training_ops(tree)
    graph = tree.subgraphs[0]
    parameters = [p for p in parameter_table(tree) if p.in_model]
    for parameter in parameters:
        variable = graph.tensors[parameter.tensor]
        variable.isVariable = False
        variable.buffer = graph.tensors[parameter.initial_tensor].buffer
    # Only now are all users of a buffer known.
    for parameter in parameters:
        if parameter.index in values:
            variable = graph.tensors[parameter.tensor]
            _replace(tree, variable, values[parameter.index], parameter.initial, parameter.name)
    _remove_training(tree)
    return save_model(tree)


def _replace(tree: Any, tensor: Any, value: np.ndarray, initial: np.ndarray, name: str) -> None:
    flat = np.ascontiguousarray(value).reshape(-1)
    if flat.dtype != initial.dtype or flat.size != initial.size:
        raise ZoError(
            f"{name}: got {flat.size} values of {flat.dtype}, the tensor has {initial.size} of {initial.dtype}"
        )
    if np.array_equal(flat, initial):
        return  # keeps the buffer, which other tensors may share
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(flat.astype(flat.dtype.newbyteorder("<")).tobytes(), dtype=np.uint8)
    users = [
        t
        for graph in tree.subgraphs
        for t in graph.tensors
        if t.buffer == tensor.buffer and not tensor_name(t).startswith(PREFIX)
    ]
    if len(users) == 1:
        tree.buffers[tensor.buffer] = buffer
    else:
        tree.buffers.append(buffer)
        tensor.buffer = len(tree.buffers) - 1


def _remove_training(tree: Any) -> None:
    """Take out what the patcher added, wherever it stands: layers may have been replaced since (export)."""
    graph = tree.subgraphs[0]
    place = trained_output(tree)
    training = {op.opcodeIndex for op in graph.operators if custom_code(tree, op).startswith(OP_PREFIX)}
    graph.operators = [op for op in graph.operators if op.opcodeIndex not in training]
    kept_codes = [i for i in range(len(tree.operatorCodes)) if i not in training]
    for operator in (op for subgraph in tree.subgraphs for op in subgraph.operators or []):
        operator.opcodeIndex = kept_codes.index(operator.opcodeIndex)
    tree.operatorCodes = [tree.operatorCodes[i] for i in kept_codes]
    graph.inputs = graph.inputs[:-2]
    trained, _, *others = (int(i) for i in graph.outputs)
    others.insert(place, trained)
    graph.outputs = np.array(others, dtype=np.int32)
    kept = [i for i, tensor in enumerate(graph.tensors) if not tensor_name(tensor).startswith(PREFIX)]
    _renumber(tree, {old: new for new, old in enumerate(kept)})
    graph.tensors = [graph.tensors[i] for i in kept]


def _renumber(tree: Any, number: Mapping[int, int]) -> None:
    """Give the tensors of the main subgraph other indices, by their present ones."""
    if all(old == new for old, new in number.items()):
        return
    graph = tree.subgraphs[0]
    for table in (graph, *graph.operators):
        for field in ("inputs", "outputs", "intermediates"):
            indices = getattr(table, field, None)
            if indices is not None:
                setattr(table, field, np.array([number.get(int(i), -1) for i in indices], np.int32))
    for signature in tree.signatureDefs or []:
        for end in (*(signature.inputs or []), *(signature.outputs or [])):
            if signature.subgraphIndex == 0:
                end.tensorIndex = number[end.tensorIndex]
