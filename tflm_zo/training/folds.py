# SPDX-License-Identifier: Apache-2.0
"""Cross-validation: a training on all folds but one, scored on that one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError, no_data_warnings
from tflm_zo.ops.counter_random import permutation
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.training.simulator_engine import SimulatorEngine
from tflm_zo.training.trainer import Trainer


@dataclass(frozen=True)
class Samples:
    """Labelled samples ``x`` (n, ...) and ``y`` (n, ...), and the folds they are split into (indices)."""

    x: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    folds: tuple[np.ndarray, ...] = field(repr=False)


def into_folds(x: np.ndarray, y: np.ndarray, count: int, seed: int) -> Samples:
    """Split labelled samples into ``count`` folds of equal size, each with its part of every class.

    Raises :class:`ZoError` if there are too few samples.
    """
    x, y = np.asarray(x), np.asarray(y)
    samples = len(x) if x.ndim else 0
    if y.ndim == 0 or len(y) != samples:
        raise ZoError(f"y has shape {y.shape}, but x has {samples} samples: give one label a sample")
    if not 2 <= count <= samples:
        raise ZoError(f"folds is {count}: it must be from 2 to the number of samples, {samples}")
    order = permutation(seed, 0, samples)
    if y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1):
        order = order[np.argsort(y.reshape(-1)[order], kind="stable")]
    return Samples(x, y, tuple(np.sort(order[start::count]) for start in range(count)))


@dataclass(frozen=True)
class Score:
    """Held-out results of one or more folds, a value for each sample: its loss and, for classes, whether the
    model is right. ``passes`` is what the longest training used."""

    losses: np.ndarray = field(repr=False)
    hits: np.ndarray | None = field(repr=False)
    passes: int

    @property
    def loss(self) -> float:
        """Mean loss."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float | None:
        """Part of the samples that the model is right on; None if there are no classes."""
        return None if self.hits is None else float(self.hits.mean())

    def gain_over(self, other: Score) -> tuple[float, float]:
        """How much lower the loss is than ``other``'s on the same samples, and the standard error of that.

        The error is that of the mean of the differences, so what is hard for both does not count.
        """
        difference = other.losses.astype(np.float64) - self.losses
        return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def join(scores: Sequence[Score]) -> Score:
    """Put the scores of several folds together, in their order."""
    hits = [score.hits for score in scores if score.hits is not None]
    return Score(
        np.concatenate([score.losses for score in scores]),
        np.concatenate(hits) if hits else None,
        max(score.passes for score in scores),
    )


def score_fold(
    model: bytes, samples: Samples, fold: int, seed: int, passes: int, hyperparameters: Mapping[str, Any]
) -> Score:
    """Train the patched ``model`` in the simulator on all folds but ``fold``, and score it on that one.

    ``passes`` bounds the training; each fold's training has random numbers of its own. Raises :class:`ZoError`
    as :meth:`Trainer.fit <tflm_zo.training.trainer.Trainer.fit>` does, and KeyboardInterrupt if Ctrl-C ended it early.
    """
    held_out = samples.folds[fold]
    kept = np.setdiff1d(np.arange(len(samples.x)), held_out)
    trainer = _simulated(model, seed + fold)
    # The fold judges this fit, so the fit holds out none of its own samples.
    settings = {"epochs": passes, "passes": passes, "verbose": False, "holdout": 0.0} | dict(hyperparameters)
    with no_data_warnings():
        if trainer.fit(samples.x[kept], samples.y[kept], **settings).interrupted:
            raise KeyboardInterrupt
        losses, hits = trainer.sample_scores(samples.x[held_out], samples.y[held_out])
    return Score(losses, hits, trainer.progress.passes)


def score_untrained(model: bytes, samples: Samples) -> Score:
    """Score the patched ``model`` as it is, on all folds in their order."""
    trainer = _simulated(model)
    order = np.concatenate(samples.folds)
    with no_data_warnings():
        losses, hits = trainer.sample_scores(samples.x[order], samples.y[order])
    return Score(losses, hits, 0)


def _simulated(model: bytes, seed: int = 0) -> Trainer:
    """A trainer for one of many trainings, whose outputs nobody uses but the search."""
    return Trainer(model, seed, engine=SimulatorEngine(read_patched(model), confirms=False))
