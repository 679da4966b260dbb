# SPDX-License-Identifier: Apache-2.0
"""What the simulator knows about one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Geometry(NamedTuple):
    """A window that slides over an image in NHWC layout; ``channels`` are those of the input.

    Padding is at the top and left; bottom and right are extended as far as the last window reaches.
    """

    input_height: int
    input_width: int
    channels: int
    kernel_height: int
    kernel_width: int
    stride_height: int
    stride_width: int
    dilation_height: int
    dilation_width: int
    pad_top: int
    pad_left: int
    output_height: int
    output_width: int


@dataclass(frozen=True)
class SimLayer:
    """One operator of the model, ``index`` counted without those that only compute a shape.

    ``weights`` (int8, in the shape of the model's tensor) and ``bias`` (int32, one element per output
    channel) are the arrays that the engine computes with, or None. Write into them,
    ``layer.weights[...] = new``; the next run notices. ``weight_scales`` (float32) has one element or one
    per output channel. ``multipliers`` (int64 Q0.31 significands) and ``shifts`` (int64, positive: left)
    rescale accumulators, one per output channel. ``options`` are those of the TFLite schema, in its names.
    ``geometry`` is the sliding window of convolutions, fully connected layers (1x1 over rows) and pooling.
    """

    index: int
    op: str
    inputs: tuple[int, ...]
    output: int
    options: Mapping[str, object]
    weights: np.ndarray | None
    bias: np.ndarray | None
    weight_scales: np.ndarray | None
    multipliers: np.ndarray | None
    shifts: np.ndarray | None
    activation_min: int
    activation_max: int
    geometry: Geometry | None
