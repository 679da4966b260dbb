# SPDX-License-Identifier: Apache-2.0
"""What the simulator knows about one layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflm_zo.model.window import Geometry


@dataclass(frozen=True)
class SimLayer:
    """One operator of the model, ``index`` counted without those that only compute a shape.

    ``weights`` (int8, in the shape of the model's tensor) and ``bias`` (int32, one element per output
    channel) are the arrays that the engine computes with, or None. Write into them,
    ``layer.weights[...] = new``; the next run notices. ``weight_scales`` (float32) has one element or one
    per output channel. ``multipliers`` (int64 Q0.31 significands) and ``shifts`` (int64, positive: left)
    rescale accumulators, one per output channel. ``activation`` is the
    schema's name of the fused activation function. ``geometry`` is the sliding window of convolutions, fully
    connected layers (1x1 over rows) and pooling.
    """

    index: int
    op: str
    inputs: tuple[int, ...]
    output: int
    activation: str
    weights: np.ndarray | None
    bias: np.ndarray | None
    weight_scales: np.ndarray | None
    multipliers: np.ndarray | None
    shifts: np.ndarray | None
    activation_min: int
    activation_max: int
    geometry: Geometry | None
