# SPDX-License-Identifier: Apache-2.0
"""Sparse training: the mask of output channels that are perturbed and updated, as ``kernels/mask.h`` applies it
(Zhao et al., ACM TODAES 30(5), 2025, section on sparse training)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tflm_zo.ops.layouts import MaskKind

RANDOM_CHANNELS = MaskKind.RANDOM_CHANNELS


class Mask(NamedTuple):
    """A mask's setting: its kind (0: none), and the probability to be kept, a bfloat16 (the upper half of a float32)
    as an integer."""

    kind: int = 0
    level: int = 0


def channel_mask(keep: float | Mapping[str, float], layer: str) -> Mask:
    """Return the mask that keeps each output channel of a layer with the probability ``keep``, drawn for each step."""
    part = kept_part(keep, layer)
    return Mask() if part == 1 else Mask(RANDOM_CHANNELS, int(np.float32(part).view(np.uint32)) >> 16)


def kept_part(keep: float | Mapping[str, float], layer: str) -> float:
    """Return what ``keep``, a number or numbers by layer, says of a layer: all, if it is not named."""
    return keep.get(layer, 1.0) if isinstance(keep, Mapping) else keep
