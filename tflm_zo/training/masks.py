# SPDX-License-Identifier: Apache-2.0
"""Sparse training: masks of what is perturbed and updated, as ``kernels/mask.h`` applies them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tflm_zo.ops.layouts import MaskKind
from tflm_zo.ops.options import DEPTHWISE, LayerShape
from tflm_zo.patching.patched_model import Parameter

_KINDS = {
    "random": MaskKind.RANDOM_ELEMENTS,
    "random-channels": MaskKind.RANDOM_CHANNELS,
    "top-k": MaskKind.TOP_ELEMENTS,
    "top-k-channels": MaskKind.TOP_CHANNELS,
}
MASKS = tuple(_KINDS)


class Mask(NamedTuple):
    """A mask's setting: its kind, and its level, a bfloat16 (the upper half of a float32) as an integer.

    The level of random masks is the probability to be kept; of the others the least square of a real value, or
    sum of squares over an output channel, that is kept.
    """

    kind: int = 0
    level: int = 0


def parameter_mask(parameter: Parameter, name: str, keep: float) -> tuple[Mask, float]:
    """Return the mask ``name`` (of :data:`MASKS`) that keeps a fraction ``keep`` of a parameter's elements.

    Also returns how many elements it lets be perturbed (expected, for random masks). Those without headroom are not
    perturbed in any case and do not count; with top-k, ties and the short level may keep a few more.
    """
    entry = parameter.entry
    limit = np.iinfo(parameter.dtype).max
    free = np.abs(parameter.initial.astype(np.int64)) <= limit - entry.headroom
    if keep == 1 or not np.any(free):
        return Mask(), float(np.sum(free))
    if name.startswith("random"):
        return Mask(_KINDS[name], _bfloat16(keep)), keep * float(np.sum(free))
    channel = np.arange(parameter.count) // entry.channel_stride % entry.channels
    factors = np.broadcast_to(parameter.factors, entry.channels)
    squares = np.square(parameter.initial.astype(np.float32))
    if name == "top-k":
        level, kept = _top(squares, factors[channel], keep, free)
    else:
        sums = np.array([_sum(squares[channel == c]) for c in range(entry.channels)])
        level, chosen = _top(sums, factors, keep, np.ones(entry.channels, dtype=bool))
        kept = chosen[channel]
    return Mask(_KINDS[name], level), float(np.sum(kept & free))


def node_mask(
    shape: LayerShape, weights: np.ndarray, factors: np.ndarray, name: str, keep: float
) -> tuple[Mask, float]:
    """Return the mask ``name`` that keeps a fraction ``keep`` of a layer's output channels, and how many it keeps.

    ``weights`` are the layer's initial codes (int8, flat), ``factors`` the weight factors of its node op.
    """
    channels = shape.output_channels
    if keep == 1:
        return Mask(), float(channels)
    if name.startswith("random"):
        return Mask(_KINDS[name], _bfloat16(keep)), keep * channels
    squares = np.square(weights.astype(np.float32))
    filters = squares.reshape(-1, channels).T if shape.kind == DEPTHWISE else squares.reshape(channels, -1)
    sums = np.array([_sum(values) for values in filters])
    level, kept = _top(sums, np.broadcast_to(np.square(factors), channels), keep, np.ones(channels, dtype=bool))
    return Mask(_KINDS[name], level), float(np.sum(kept))


def _sum(values: np.ndarray) -> np.float32:
    """The sum in single precision from the first to the last value, as the kernels add."""
    return np.cumsum(values, dtype=np.float32)[-1]


def _top(values: np.ndarray, factors: np.ndarray, keep: float, free: np.ndarray) -> tuple[int, np.ndarray]:
    """The highest level for which ``values >= level * factors`` (float32) holds for enough of the ``free``."""
    wanted = max(1, round(keep * int(np.sum(free))))
    ratios = values.astype(np.float64) / factors
    level = _bfloat16(float(np.sort(ratios[free])[-wanted]))
    while True:
        kept = values >= np.float32(_value(level)) * factors
        if np.sum(kept & free) >= wanted or level == 0:
            return level, kept
        level -= 1


def _bfloat16(value: float) -> int:
    """The bfloat16 next to ``value`` towards 0."""
    return int(np.float32(value).view(np.uint32)) >> 16


def _value(level: int) -> float:
    return float(np.uint32(level << 16).view(np.float32))
