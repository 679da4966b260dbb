# SPDX-License-Identifier: Apache-2.0
"""How long a fit is, and how its learning rates fall."""

from __future__ import annotations

from tflm_zo.errors import ZoError
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.lr_schedule import rate_scale


class FitPlan:
    """How many batches a fit has, and the decay of its learning rates over them.

    Raises :class:`ZoError` if ``passes`` does not suffice for one batch.
    """

    def __init__(self, samples: int, hyper: Hyperparameters, passes_a_sample: int, probes: int) -> None:
        self.batch_size = min(hyper.batch_size, samples)
        self.batches = -(-samples // self.batch_size)
        self.lr_schedule, self.lr_end = hyper.lr_schedule, hyper.lr_end
        self.steps = hyper.epochs * self.batches
        passes_a_batch = passes_a_sample * self.batch_size
        if hyper.passes is not None:
            # One more pass an epoch may be needed, to apply the last update.
            an_epoch = passes_a_sample * samples + 1
            whole, rest = divmod(max(hyper.passes - probes, 0), an_epoch)
            self.steps = min(self.steps, whole * self.batches + max(rest - 1, 0) // passes_a_batch)
        if self.steps == 0:
            raise ZoError(
                f"passes is {hyper.passes}, but {probes} go before the first batch and one batch takes "
                f"{passes_a_batch}: raise passes, or lower batch_size or queries"
            )
        self.epochs = -(-self.steps // self.batches)
        last = self.steps - (self.epochs - 1) * self.batches
        self.total_passes = passes_a_sample * ((self.epochs - 1) * samples + min(last * self.batch_size, samples))

    def batches_in(self, epoch: int) -> int:
        """Batches that ``epoch`` has; the last may have fewer."""
        return min(self.batches, self.steps - epoch * self.batches)

    def rate_scale(self, step: int) -> float:
        """Factor of the learning rates at ``step``."""
        return rate_scale(self.lr_schedule, self.lr_end, step, self.steps)
