# SPDX-License-Identifier: Apache-2.0
"""Nothing is kept that made a model worse: what a fit ends with is judged by samples that did not make it.

Where there are enough labelled samples, a share of each class is held out. Where there are too few, the fit is first
tried on either half of them and judged by the other half, and only then made with all.

A sample's error is the mean of 1 - p, the probability that the model gave to other classes than its label's, and of
whether it was wrong. Cross-entropy would not do: it grows with every sample that a training gets wrong with more
confidence, also while accuracy still rises. A set in which a class is rare must not teach the model to forget it, so
the mean over classes, each counting alike, must not get worse either. For a squared error the error is the loss.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np

from tflm_zo.ops.counter_random import permutation

# With fewer labelled samples than this none is held out.
_ENOUGH = 200
# The part of the samples that is held out: _FIRST_SHARE of the first _FIRST ones, _FURTHER_SHARE of the rest.
_FIRST, _FIRST_SHARE, _FURTHER_SHARE = 400, 0.2, 0.1
# Looks at the held-out samples take at most this part of a fit's passes.
_SHARE_OF_PASSES = 0.12
_MOST_CHECKS = 10

# Weights that got worse: the learning rates are multiplied by CUT, and after more than MOST_CUTS cuts the fit gives up.
# A fit that is tried on halves gives up after more than MOST_TRIALS trials in vain.
CUT = 0.25
MOST_CUTS = 3
MOST_TRIALS = 1

# By how many standard errors weights must be better than the start to be kept: _BETTER, and _FEW_SAMPLES / samples
# more. By how many they must be worse to be given up at once: compared with the start, or with better weights than
# that.
_BETTER, _FEW_SAMPLES = 0.75, 8.0
_WORSE_THAN_START, _WORSE = 1.0, 2.0
# With at least so many samples, weights may be kept for their lower losses although they answer no more right.
ENOUGH_FOR_LOSSES = 60
# Samples are uneven if one class has more than _UNEVEN times as many as the classes have in the mean. Then the mean of
# the classes' errors must be better by _DEMAND_OF_UNEVEN standard errors.
_UNEVEN, _DEMAND_OF_UNEVEN = 1.5, 1.5
# A start that lacks a class is no answer, so where a training adds one the mean of the classes' errors may be worse by
# so many standard errors, which is less than can be told from chance.
_LEAVE_FOR_NEW = 1.0
# For classes without samples, which cannot be judged: the part of their right answers that a fit is assumed to lose.
_FORGOTTEN = 0.5
# Weights that are worse than the best ones by so many standard errors show that the fit has passed its best point.
_FADING = 1.0


class Verdict(enum.Enum):
    """What the guard says to a fit."""

    BETTER = "better"  # the best weights so far: keep them
    GO_ON = "go on"
    WORSE = "worse"  # go back to the best, with lower rates


def errors_of(losses: np.ndarray, right: np.ndarray | None) -> np.ndarray:
    """Return errors (float64, n) from losses (n) and, for classes, whether the prediction is the label (n).

    The loss of a class is -log p.
    """
    losses = np.asarray(losses, dtype=np.float64)
    if right is None:
        return losses
    return np.asarray(0.5 * (1.0 - np.exp(-losses)) + 0.5 * (1.0 - np.asarray(right, dtype=np.float64)))


def held_out_count(samples: int, share: float | None) -> int:
    """Return how many of so many labelled samples are held out; 0 if all are trained on."""
    if share is not None:
        return round(share * samples)
    if samples < _ENOUGH:
        return 0
    return round(_FIRST_SHARE * min(samples, _FIRST) + _FURTHER_SHARE * max(samples - _FIRST, 0))


def hold_out(labels: np.ndarray | None, samples: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of samples to train on and of ``count`` held-out ones, both in increasing order.

    ``labels``: classes (n,), each of which gives its share, but for its only sample; None without classes.
    """
    order = permutation(seed, _ORDER, samples)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    # Every (n / count)-th of the samples in the order of their classes, from the middle of each stretch on.
    places = ((2 * np.arange(count) + 1) * samples) // (2 * max(count, 1))
    held = order[places]
    if labels is not None:
        alone = np.bincount(labels)[labels[held]] < 2
        held = held[~alone]
    held = np.sort(held)
    return np.setdiff1d(np.arange(samples), held), held


# The permutation that samples are held out by, apart from those of the epochs.
_ORDER = (1 << 24) + 1


def checks(passes: int, held_out: int) -> int:
    """Return how often a fit of so many passes looks at its held-out samples, besides before it begins."""
    affordable = int(_SHARE_OF_PASSES * passes / max(held_out, 1)) - 1
    return max(1, min(affordable, _MOST_CHECKS))


@dataclass
class Scores:
    """Of samples: errors (float64, n); for classes, whether each was answered right (bool, n), else None; and losses
    (float64, n)."""

    errors: np.ndarray
    right: np.ndarray | None
    losses: np.ndarray

    @classmethod
    def of(cls, losses: np.ndarray, right: np.ndarray | None) -> Scores:
        """Return the scores of samples with these losses (n) and, for classes, right answers (bool, n)."""
        return cls(errors_of(losses, right), right, losses.astype(np.float64))


@dataclass(frozen=True)
class Comparison:
    """Scores of two sets of weights on the same samples.

    ``gain``: how much lower the errors of the second are in the mean, ``deviation``: the standard error of that, and
    the same of the losses; ``gain_of_right``: how much larger its part of right answers (0 without ``classes``);
    ``balanced_gain``: as ``gain``, with classes counting alike, and ``balanced_demand``: how large it must be. Of a
    class of which there is no sample it is taken that training forgets it for half of the samples that the first
    answers right.
    """

    gain: float
    deviation: float
    loss_gain: float
    loss_deviation: float
    gain_of_right: float
    balanced_gain: float
    balanced_demand: float
    samples: int
    classes: bool

    def better(self, demand: float) -> bool:
        """Whether the second has lower errors, is no worse for the classes on average, and is better by so many
        standard errors: in its errors, with more right answers, or in its losses.

        Losses are a proper score, so they also show what is too small to be seen in a few dozens of answers.
        """
        if not self.gain > 0:
            return False
        if not self.balanced_gain >= self.balanced_demand:
            return False
        more_right = self.gain_of_right > 0 or not self.classes
        if self.gain > demand * self.deviation and more_right:
            return True
        # Of few samples the losses tell no more than that the model is more certain of the same answers.
        return (more_right or self.samples >= ENOUGH_FOR_LOSSES) and self.loss_gain > demand * self.loss_deviation

    def worse(self, demand: float) -> bool:
        """Whether the second is worse by so many standard errors."""
        return -self.gain > demand * self.deviation


def compare(
    before: Scores,
    after: Scores,
    labels: np.ndarray | None,
    classes: int = 0,
    new: frozenset[int] = frozenset(),
) -> Comparison:
    """Compare two sets of weights on the same samples with ``labels`` (n,), None without classes.

    ``classes``: how many classes the model has, if more than there are among the labels; ``new``: those of them that it
    did not know at first. How well it answered at first is told by the others alone.
    """
    count = len(before.errors)
    difference, of_losses = before.errors - after.errors, before.losses - after.losses
    gain = float(np.mean(difference))
    balanced, demand, right = gain, 0.0, 0.0
    if labels is not None:
        present, counts = np.unique(labels, return_counts=True)
        every = max(classes, len(present))
        gains = [float(np.mean(difference[labels == c])) for c in present]
        old = ~np.isin(labels, list(new))
        known = 0.0 if before.right is None else float(np.mean(before.right[old])) if np.any(old) else 1.0
        balanced = (sum(gains) - (every - len(present)) * _FORGOTTEN * known) / every
        spread = math.sqrt(float(np.sum(1.0 / counts))) / every
        if every > len(present) or (not new and counts.max() > _UNEVEN * counts.mean()):
            # Rare classes have few judges, which must be sure all the same.
            demand = _DEMAND_OF_UNEVEN * float(np.std(difference)) * spread
        elif new:
            within = difference - np.array(gains)[np.searchsorted(present, labels)]
            demand = -_LEAVE_FOR_NEW * float(np.std(within)) * spread
    if before.right is not None and after.right is not None:
        right = float(np.mean(after.right.astype(np.float64) - before.right))
    return Comparison(
        gain,
        _standard_error(difference),
        float(np.mean(of_losses)),
        _standard_error(of_losses),
        right,
        balanced,
        demand,
        count,
        after.right is not None,
    )


def _standard_error(values: np.ndarray) -> float:
    return float(np.std(values)) / math.sqrt(max(len(values) - 1, 1))


class Guard:
    """The best weights of a fit, by the scores of samples that did not make them.

    ``labels``: their classes (n,), None without classes; ``classes``: how many the model has; ``new``: those that it
    did not know when the fit began. ``best``: scores of the best weights so far, at first of those that the fit began
    with.
    """

    def __init__(
        self,
        labels: np.ndarray | None,
        best: Scores,
        best_is_start: bool = True,
        classes: int = 0,
        new: frozenset[int] = frozenset(),
    ) -> None:
        self._labels, self._classes, self._new = labels, classes, new
        self.best = best
        self.best_is_start = best_is_start
        # Whether the weights judged last are worse than the best by more than chance.
        self.fading = False

    @property
    def can_gain(self) -> bool:
        """Whether any weights could be seen to be better: the start may have answered every sample right."""
        return self.best.right is None or not bool(np.all(self.best.right))

    def judge(self, now: Scores) -> Verdict:
        """Compare the present weights with the best so far.

        The start must be beaten beyond chance (:meth:`Comparison.better`); later ones must be no worse in anything.
        """
        # What classes without samples are assumed to lose counts against the start only: they lose it once.
        found = compare(self.best, now, self._labels, self._classes if self.best_is_start else 0, self._new)
        self.fading = found.worse(_FADING)
        if self.best_is_start:
            demand = _BETTER + _FEW_SAMPLES / max(found.samples, 1)
            accepted = found.better(demand)
        else:
            accepted = found.gain > 0 and found.gain_of_right >= 0 and found.balanced_gain >= 0
        if accepted:
            self.best, self.best_is_start = now, False
            return Verdict.BETTER
        if found.worse(_WORSE_THAN_START if self.best_is_start else _WORSE):
            return Verdict.WORSE
        return Verdict.GO_ON
