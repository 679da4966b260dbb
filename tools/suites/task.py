# SPDX-License-Identifier: Apache-2.0
"""A task: an int8 model and labelled samples as they are before any drift, from which drifted cases are made."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from suites.case import Case
from suites.drifts import Drift, Sensor, draw


@dataclass(frozen=True, eq=False)
class Task:
    """``x`` (n, ...) are samples to adapt on, ``x_test`` others to test on: codes int8, or float32 for models with
    float input; ``y``: class indices, or real outputs for "mse". ``kind``: as in :mod:`suites.drifts`; ``zero``: the
    value (in the units of ``x``) of a silent sensor."""

    name: str
    model: bytes
    kind: str
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    zero: float
    loss: str = "cross-entropy"

    @functools.cached_property
    def sensor(self) -> Sensor:
        """Measured on the samples to adapt on."""
        return Sensor.of(self.x, self.zero)

    def drift(self, family: str, seed: int) -> Drift:
        """Return the drift of a family for this task's samples."""
        return draw(family, self.kind, seed, self.sensor)

    def case(self, family: str, seed: int, folder: Path | None = None) -> Case:
        """Return the case of a drift; what differs from sample to sample is drawn apart for adaptation and test.

        ``folder``: where prepared models are kept.
        """
        drift = self.drift(family, seed)
        return Case(
            name=f"{self.name}, {family} {seed}",
            model=self.model,
            x=drift.apply(self.x, np.random.default_rng([seed, 1])),
            y=self.y,
            x_test=drift.apply(self.x_test, np.random.default_rng([seed, 2])),
            y_test=self.y_test,
            x_before=self.x_test,
            y_before=self.y_test,
            reference=self.x,
            loss=self.loss,
            group=family,
            about=drift.name,
            folder=folder,
        )


def image_codes(images: np.ndarray) -> np.ndarray:
    """Pixels uint8 as the int8 codes of a model whose input is pixel - 128."""
    return (images.astype(np.int16) - 128).astype(np.int8)


def per_class(y: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return indices of ``counts[c]`` samples of each class ``c`` (as many as there are), in random order."""
    chosen = [rng.permutation(np.flatnonzero(y == c))[:count] for c, count in enumerate(counts)]
    return np.asarray(rng.permutation(np.concatenate(chosen)))
