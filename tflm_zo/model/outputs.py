# SPDX-License-Identifier: Apache-2.0
"""The outputs of a model: their names, and which of several is meant."""

from __future__ import annotations

from typing import Any

from tflm_zo.errors import ZoError
from tflm_zo.model.file import shape_of, tensor_name, text_of


def output_names(tree: Any) -> list[str]:
    """Return the names of a plain model's outputs: those of its signature (Keras' names of layers), where it has one,
    else those of the tensors."""
    graph = tree.subgraphs[0]
    signed = {
        int(entry.tensorIndex): text_of(entry.name)
        for signature in (tree.signatureDefs or [])[:1]
        if signature.subgraphIndex == 0
        for entry in signature.outputs or []
    }
    return [signed.get(int(i)) or tensor_name(graph.tensors[int(i)]) for i in graph.outputs]


def choose_output(tree: Any, output: str | int | None) -> int:
    """Return the place of an output among those of a plain model.

    ``output``: its place, or its name as :func:`output_names` has it or as its tensor is called; None: the only one.
    Raises :class:`ZoError` if there is none of that name, or several and none is named.
    """
    graph, names = tree.subgraphs[0], output_names(tree)
    tensors = [graph.tensors[int(i)] for i in graph.outputs]
    known = ", ".join(f"{i} {name} {list(shape_of(t))}" for i, (name, t) in enumerate(zip(names, tensors, strict=True)))
    if output is None:
        if len(names) != 1:
            raise ZoError(
                f"the model has {len(names)} outputs; choose one by name or number (patch, eval --output-name): {known}"
            )
        return 0
    found = [i for i, t in enumerate(tensors) if str(output) in (str(i), names[i], tensor_name(t))]
    if not found:
        raise ZoError(f"the model has no output {output!r}; the outputs are: {known}")
    return found[0]


def require_one_input(tree: Any) -> None:
    """Raise :class:`ZoError` if a plain model has not exactly one input."""
    graph = tree.subgraphs[0]
    if len(graph.inputs) != 1:
        names = ", ".join(tensor_name(graph.tensors[int(i)]) for i in graph.inputs)
        raise ZoError(
            f"the model has {len(graph.inputs)} inputs ({names}), samples have one: give the model one input that it "
            "slices, or constants for the others, and convert it again"
        )
