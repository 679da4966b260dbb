# SPDX-License-Identifier: Apache-2.0
"""Which layers may be trained for one of a model's outputs."""

from __future__ import annotations

from typing import Any

from tflm_zo.errors import ZoError
from tflm_zo.model.graph import Graph, main_graph
from tflm_zo.model.layers import Layer
from tflm_zo.patching import adapter


def layers_of_output(tree: Any, layers: list[Layer], place: int) -> list[Layer]:
    """Return those of a model's ``layers`` that lead to its output at ``place`` and to no other.

    The input adapter stays among them: a sensor's drift is mended for all outputs. Raises :class:`ZoError` if there are
    layers, but none of this output alone.
    """
    graph = main_graph(tree)
    if len(graph.outputs) == 1:
        return layers
    mine = _ancestors(graph, (graph.outputs[place],))
    others = _ancestors(graph, tuple(o for i, o in enumerate(graph.outputs) if i != place))
    found = [
        layer for layer in layers if layer.name == adapter.NAME or (layer.output in mine and layer.output not in others)
    ]
    if layers and all(layer.name == adapter.NAME for layer in found):
        raise ZoError(
            f"output {place} has no layer of its own: all that lead to it lead to other outputs too, which would change"
        )
    return found


def _ancestors(graph: Graph, outputs: tuple[int, ...]) -> set[int]:
    """All tensors that these are computed from, themselves too."""
    found = set(outputs)
    for operator in reversed(graph.operators):
        if found.intersection(operator.outputs):
            found.update(operator.inputs)
    return found
