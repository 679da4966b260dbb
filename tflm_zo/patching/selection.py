# SPDX-License-Identifier: Apache-2.0
"""The choice of the layers that are to be trained."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tflm_zo.errors import ZoError
from tflm_zo.model.layer_names import listing, matching
from tflm_zo.model.layers import Layer

_REMEDY = "train by perturbation, --trainable last:1, or end the Keras model in a Dense layer without activation"


@dataclass(frozen=True)
class Selection:
    """What is to be trained: the layers' ordinals, and whether their weights or only their biases."""

    weights: frozenset[int]
    biases: frozenset[int]


def select(
    layers: list[Layer],
    trainable: str,
    exact: frozenset[int] = frozenset(),
    head: Layer | None = None,
    why_not_exact: str = "",
) -> Selection:
    """Resolve ``all``, ``head``, ``exact``, ``last:K``, ``bias`` or comma-separated names of layers.

    Layers are named as :func:`~tflm_zo.model.layer_names.matching` has it; parts may be combined with commas
    (``conv2d,head``). A part that ends in ``/bias`` chooses only the biases of its layers; ``bias`` is ``all/bias``.
    ``exact`` holds the layers trained in closed form, ``head`` is the one that makes the logits, if it is among them;
    ``why_not_exact`` is said if there are none.
    Raises :class:`ZoError` naming the part that matches nothing.
    """
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
        chosen = set(exact) if name == "exact" else _matching(layers, name, head)
        if not chosen:
            names = listing(layer.label for layer in layers)
            hint = f": {why_not_exact} (remedy: {_REMEDY})" if name in ("exact", "head") else ""
            raise ZoError(f"--trainable: {part!r} matches no layer{hint}; the layers (operators) are: {names}")
        if not only_biases:
            weights |= chosen
        biases |= {layer.ordinal for layer in layers if layer.ordinal in chosen and layer.bias >= 0}
    if not weights and not biases:
        raise ZoError(f"--trainable {trainable}: none of the layers has a bias")
    return Selection(frozenset(weights), frozenset(biases))


def _matching(layers: list[Layer], part: str, head: Layer | None) -> set[int]:
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
    return {layers[position].ordinal for position in matching([layer.label for layer in layers], part)}
