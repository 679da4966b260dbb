# SPDX-License-Identifier: Apache-2.0
"""Patched models in the form that the fuzz target of the training ops reads: ``tests/cpp/fuzz/fuzz_ops.cc``."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import small_models

from tflm_zo.model.file import load_model, schema, shape_of
from tflm_zo.ops.host_api import TrainingOpKind
from tflm_zo.ops.names import LOSS_OP, NODE_OP, PARAMETER_OP, custom_code
from tflm_zo.patching.patch import patch

_KINDS = {PARAMETER_OP: TrainingOpKind.PARAMETERS, NODE_OP: TrainingOpKind.NODE, LOSS_OP: TrainingOpKind.LOSS}
_ELEMENT_TYPES = {schema.TensorType.INT8: 0, schema.TensorType.INT32: 1, schema.TensorType.FLOAT32: 2}


def patched_models() -> dict[str, bytes]:
    """Small patched models whose training ops differ in all that they can be given."""
    samples = small_models.separable_samples(40, 0)[0]
    conv, dense = small_models.small_model(), small_models.dense_model(features=6, outputs=3)
    regression = small_models.small_model("tanh", outputs=2)
    return {
        "conv": patch(conv, "all"),
        "accumulate": patch(conv, "all", accumulate=True),
        "bias": patch(conv, "bias"),
        "adapter": patch(conv, "head", adapter=True, reference=samples),
        "entropy": patch(conv, "exact", loss="entropy"),
        "regression": patch(regression, "all", loss="mse"),
        "residual": patch(small_models.residual_model(), "last:2"),
        "dense": patch(dense, "head"),
        "map": patch(small_models.map_model(), "exact"),
        "state": patch(small_models.recurrent_model(), "head"),
        "two_outputs": patch(small_models.two_headed_model(), "exact", output=1),
    }


def words_of(patched: bytes) -> bytes:
    """Return a patched model's training ops, and the tensors that they name, as words."""
    tree = load_model(patched)
    graph = tree.subgraphs[0]
    ops = [op for op in graph.operators if custom_code(tree, op) in _KINDS]
    named = sorted({int(i) for op in ops for vector in (op.inputs, op.outputs) for i in _items(vector) if i >= 0})
    number = {index: position for position, index in enumerate(named)} | {-1: -1}
    words = [len(named)]
    for index in named:
        tensor = graph.tensors[index]
        # Of other types are states of operators, of which the ops see bytes.
        size = 1 if tensor.type in _ELEMENT_TYPES else np.dtype(np.int16).itemsize
        words += [_ELEMENT_TYPES.get(tensor.type, 0), size * math.prod(shape_of(tensor)), not tensor.isVariable]
    words.append(len(ops))
    for op in ops:
        inputs, outputs = ([number[int(i)] for i in _items(vector)] for vector in (op.inputs, op.outputs))
        options = np.frombuffer(bytes(bytearray(op.customOptions)), "<i4")
        words += [_KINDS[custom_code(tree, op)], len(inputs), len(outputs), len(options), *inputs, *outputs, *options]
    return np.array(words, "<i4").tobytes()


def write_corpus(folder: Path) -> None:
    """Write a file for each of :func:`patched_models`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in patched_models().items():
        (folder / name).write_bytes(words_of(model))


def _items(vector: Any) -> list[int]:
    return [] if vector is None else [int(value) for value in vector]


if __name__ == "__main__":
    write_corpus(Path(sys.argv[1]))
