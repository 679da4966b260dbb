# SPDX-License-Identifier: Apache-2.0
"""Where a training stands: what a checkpoint keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflm_zo.training.rates import Rates


@dataclass
class Progress:
    """Where a fit stands: epochs finished, batches finished in the present one, steps of all fits, passes of
    this one, and the learning rates (measured at the start of the fit)."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    passes: int = 0
    rates: Rates | None = None

    @property
    def head_lr(self) -> float | None:
        """The head's learning rate; None before a fit, and where no layer is trained exactly."""
        return None if self.rates is None else self.rates.head


@dataclass(frozen=True)
class Snapshot:
    """Values of all parameters, flat, and momentum states (float32), by parameter index."""

    values: list[np.ndarray]
    moments: dict[int, np.ndarray]
