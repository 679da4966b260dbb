# SPDX-License-Identifier: Apache-2.0
"""A callback that ends a fit which does not get better."""

from __future__ import annotations

from typing import Any


class Patience:
    """Ends a fit after ``epochs`` epochs without a lower training loss; a callback of
    :meth:`Trainer.fit <tflm_zo.training.trainer.Trainer.fit>`, for one fit."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._best = float("inf")
        self._since = 0

    def __call__(self, trainer: Any, logs: dict[str, float]) -> bool:
        """Return whether the fit is to end."""
        # A board adds losses up in single precision: the last digits depend on the order of the samples.
        lower = logs["loss"] < 0.9999 * self._best
        self._best = logs["loss"] if lower else self._best
        self._since = 0 if lower else self._since + 1
        return self._since >= self._epochs
