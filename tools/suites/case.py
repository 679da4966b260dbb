# SPDX-License-Identifier: Apache-2.0
"""A case: a model, and samples after a drift that it is to be adapted to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Case:
    """An int8 model, and samples after a drift: codes int8 (n, ...) with class indices or, for "mse", real vectors.

    ``x_before`` and ``y_before`` are the test samples as they were before the drift, ``reference`` unlabelled others.
    ``group``: what cases are averaged over, beside all of them; ``about``: the drift's parameters; ``folder``: where
    models that take long to prepare are kept.
    """

    name: str
    model: bytes
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    x_before: np.ndarray
    y_before: np.ndarray
    reference: np.ndarray
    loss: str = "cross-entropy"
    group: str = ""
    about: str = ""
    folder: Path | None = None

    @classmethod
    def cut(
        cls,
        name: str,
        model: bytes,
        *,
        before: tuple[np.ndarray, np.ndarray],
        after: tuple[np.ndarray, np.ndarray],
        adapt: int,
        test: int,
        loss: str = "cross-entropy",
    ) -> Case:
        """Take the first ``adapt`` of the same samples (x, y), before and after the drift, to adapt to, the last
        ``test`` to test on."""
        return cls(
            name=name,
            model=model,
            x=after[0][:adapt],
            y=after[1][:adapt],
            x_test=after[0][-test:],
            y_test=after[1][-test:],
            x_before=before[0][-test:],
            y_before=before[1][-test:],
            reference=before[0][:adapt],
            loss=loss,
        )

    @property
    def metric(self) -> str:
        """What is measured, a key of ``Trainer.evaluate``."""
        return "accuracy" if self.higher_is_better else "loss"

    @property
    def higher_is_better(self) -> bool:
        """Accuracy, or else an error."""
        return self.loss == "cross-entropy"
