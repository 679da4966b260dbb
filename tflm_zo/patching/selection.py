# SPDX-License-Identifier: Apache-2.0
"""The choice of the layers that are to be trained."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from typing import Any

from tflm_zo.errors import ZoError
from tflm_zo.model.file import tensor_name
from tflm_zo.model.layers import Layer

_REMEDY = "train by perturbation, --trainable last:1, or end the Keras model in a Dense layer without activation"


@dataclass(frozen=True)
class Selection:
    """What is to be trained: the layers' ordinals, and whether their weights or only their biases."""

    weights: frozenset[int]
    biases: frozenset[int]


def select(
    model: Any,
    layers: list[Layer],
    trainable: str,
    exact: frozenset[int] = frozenset(),
    head: Layer | None = None,
    why_not_exact: str = "",
) -> Selection:
    """Resolve ``all``, ``head``, ``exact``, ``last:K``, ``bias`` or comma-separated names and globs.

    A glob is matched against a layer's short name (``conv2d_3``) and its weights' full tensor name; parts may be
    combined with commas (``conv2d,head``). A part that ends in ``/bias`` chooses only the biases of its layers;
    ``bias`` is ``all/bias``. ``exact`` holds the layers trained in closed form, ``head`` is the one that makes the
    logits, if it is among them; ``why_not_exact`` is said if there are none.
    Raises :class:`ZoError` naming the part that matches nothing.
    """
    graph = model.subgraphs[0]
    if not layers:
        raise ZoError(
            "the model has no int8 CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED layer with constant "
            "weights: nothing can be trained"
        )
    weights: set[int] = set()
    biases: set[int] = set()
    for part in (p.strip() for p in trainable.split(",")):
        only_biases = part == "bias" or part.endswith("/bias")
        name = "all" if part == "bias" else part.removesuffix("/bias")
        chosen = set(exact) if name == "exact" else _matching(graph, layers, name, head)
        if not chosen:
            names = ", ".join(layer.name for layer in layers)
            hint = f": {why_not_exact} (remedy: {_REMEDY})" if name in ("exact", "head") else ""
            raise ZoError(f"--trainable: {part!r} matches no layer{hint}; the layers are: {names}")
        if not only_biases:
            weights |= chosen
        biases |= {i for i in chosen if layers[i].bias >= 0}
    if not weights and not biases:
        raise ZoError(f"--trainable {trainable}: none of the layers has a bias")
    return Selection(frozenset(weights), frozenset(biases))


def _matching(graph: Any, layers: list[Layer], part: str, head: Layer | None) -> set[int]:
    if part == "all":
        return {layer.ordinal for layer in layers}
    if part == "head":
        # The last fully connected layer is a head, too, if something behind it hides its gradient.
        last = head or layers[-1]
        return {last.ordinal} if last is head or last.kind == "FULLY_CONNECTED" else set()
    counted = re.fullmatch(r"last:(\d+)", part)
    if counted:
        count = int(counted.group(1))
        if not 1 <= count <= len(layers):
            raise ZoError(f"--trainable {part}: K must be 1 to {len(layers)}, the number of layers")
        return {layer.ordinal for layer in layers[-count:]}
    return {
        layer.ordinal
        for layer in layers
        if part
        and (
            fnmatch.fnmatchcase(layer.name, part)
            or fnmatch.fnmatchcase(tensor_name(graph.tensors[layer.weights]), part)
        )
    }
