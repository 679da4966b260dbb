# SPDX-License-Identifier: Apache-2.0
"""What the passes of a training step add up to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StepTotals:
    """The number of a step's passes, the sum of their losses, how many predicted the label."""

    passes: int
    loss: float
    right: int


def sum_in_order(values: np.ndarray) -> float:
    """Return the sum in double precision from the first to the last value, as a loop over passes adds them."""
    return float(np.cumsum(values, dtype=np.float64)[-1]) if len(values) else 0.0
