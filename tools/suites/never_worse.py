# SPDX-License-Identifier: Apache-2.0
"""Default trainings of all tasks, and whether one of them made a model worse.

The score of a model is its accuracy on the test samples. Of regressions it is the part of the targets' variance that
the outputs explain, 1 - (mean squared error) / (variance), so that a point is a hundredth of the whole for both.

A training made a model worse if the score fell by more than two points, and by more than chance explains at 99 %:
the same test samples are used before and after, so what counts is the samples that changed. Of ``b`` samples that were
right and are wrong, and ``c`` the other way round, b is binomial (b + c, 1/2) if the training changed nothing in truth
(McNemar's test, exact, one-sided). Of regressions the mean of the samples' differences is compared with its standard
error (normal approximation, one-sided).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from suites import tasks
from suites.adaptation import adapt
from suites.cache import Cache, digest, package_digest
from suites.drifts import family_of_turn
from suites.predict import predict, right
from suites.task import Task, per_class
from tflm_zo import Trainer, patch
from tflm_zo.errors import ZoError

SIZES = (20, 50, 100, 200, 400)
# A score counts as worse if it falls by more than this, at this level of significance.
MARGIN, LEVEL = 0.02, 0.01
# Counts up when what is measured changes, so that kept results are not taken for those of the new measurement.
_VERSION = 1


class Training(NamedTuple):
    """One training. ``family``: of the drift, "" for none; ``drift_seed`` its seed; ``uneven``: nine of ten samples
    are of half of the classes; ``method``: "fit" (the default patch and fit) or "adapt"."""

    task: str
    family: str
    drift_seed: int
    size: int
    uneven: bool
    seed: int
    method: str


@dataclass(frozen=True)
class Result:
    """``samples``: how many there were to train on. ``before``, ``after``: scores. ``chance``: how probable a change
    for the worse as large as this is, if training changed nothing. ``refused``: why there was no training."""

    samples: int = 0
    before: float = 0.0
    after: float = 0.0
    chance: float = 1.0
    seconds: float = 0.0
    refused: str = ""

    @property
    def worse(self) -> bool:
        """Whether the training made the model worse."""
        return self.before - self.after > MARGIN and self.chance < LEVEL


def trainings(
    name: str, kind: str, even_only: bool, drift_seeds: range, sizes: tuple[int, ...], seeds: int, method: str
) -> Iterator[Training]:
    """All trainings of a task: each size, balance and seed, without a drift and with one.

    Families take turns, so that a task meets all of them.
    """
    turn = 0
    for seed in range(seeds):
        for size in sizes:
            for uneven in (False,) if even_only else (False, True):
                family = family_of_turn(name, kind, turn)
                turn += 1
                yield Training(name, "", 0, size, uneven, seed, method)
                yield Training(name, family, drift_seeds[seed % len(drift_seeds)], size, uneven, seed, method)


def run(training: Training, data: Path, folder: Path) -> Result:
    """Train and measure; the result is kept in ``folder``."""
    try:
        task = tasks.load(training.task, data, folder / "prepared")
    except ZoError as error:
        return Result(refused=str(error))
    content = (task.model, task.x, task.y, task.x_test, task.y_test)
    key = digest(_VERSION, package_digest(), *content, *training)
    cache = Cache(folder / "never-worse")
    return Result(**cache.get(key, training._asdict(), lambda: asdict(_run(training, task))))


def _run(training: Training, task: Task) -> Result:
    started = time.perf_counter()
    x, x_test = task.x, task.x_test
    if training.family:
        case = task.case(training.family, training.drift_seed)
        x, x_test = case.x, case.x_test
    rows = chosen(task, training)
    before = predict(task.model, x_test)
    try:
        if training.method == "adapt":
            after = predict(adapt(task.model, x[rows], task.y[rows], task.x, None, training.seed).model, x_test)
        else:
            learner = Trainer(patch(task.model), training.seed)
            learner.fit(x[rows], task.y[rows], verbose=False)
            after = learner.predict(x_test)
    except ZoError as error:
        return Result(samples=len(rows), refused=str(error))
    scores = _compare(before, after, task)
    return Result(len(rows), *scores, time.perf_counter() - started)


def chosen(task: Task, training: Training) -> np.ndarray:
    """Indices of the samples to train on; fewer than ``training.size`` if there are not so many of the classes.

    Even: as many of each class. Uneven: nine of ten are of half of the classes, drawn by the seed.
    """
    rng = np.random.default_rng([training.seed, training.size, training.uneven])
    if task.loss == "mse":
        return rng.permutation(len(task.x))[: training.size]
    classes = np.unique(task.y)
    if not training.uneven:
        return _of_classes(task.y, classes, training.size, rng)
    classes = rng.permutation(classes)
    half = (len(classes) + 1) // 2
    # Where the frequent half has too few samples, the others are fewer as well: the ratio is what is wanted.
    frequent = _of_classes(task.y, classes[:half], round(0.9 * training.size), rng)
    rare = _of_classes(task.y, classes[half:], max(1, round(len(frequent) / 9)), rng)
    return np.asarray(rng.permutation(np.concatenate([frequent, rare])))


def _of_classes(y: np.ndarray, classes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of ``count`` samples, shared among classes as evenly as their numbers allow."""
    available = np.bincount(y)
    share = np.zeros(len(available), dtype=int)
    # One at a time in turn: what is left over of the last round goes to classes in random order.
    while count > 0 and np.any(share[classes] < available[classes]):
        for c in rng.permutation(classes):
            if count > 0 and share[c] < available[c]:
                share[c] += 1
                count -= 1
    return per_class(y, share, rng)


def _compare(before: np.ndarray, after: np.ndarray, task: Task) -> tuple[float, float, float]:
    """Scores before and after, and the probability of such a change for the worse by chance."""
    # scipy comes with the benchmarks' extra only.
    from scipy import stats

    if task.loss == "mse":
        targets = task.y_test.reshape(len(before), -1)
        errors = [np.mean(np.square(out.reshape(targets.shape) - targets), axis=1) for out in (before, after)]
        variance = float(np.mean(np.var(targets, axis=0)))
        rise = errors[1] - errors[0]
        error = float(rise.std(ddof=1)) / np.sqrt(len(rise))
        chance = 1.0 if error == 0 else float(stats.norm.sf(rise.mean() / error))
        return 1 - float(errors[0].mean()) / variance, 1 - float(errors[1].mean()) / variance, chance
    hits = [right(out, task.y_test) for out in (before, after)]
    lost, won = int(np.sum(hits[0] & ~hits[1])), int(np.sum(~hits[0] & hits[1]))
    chance = float(stats.binom.sf(lost - 1, lost + won, 0.5)) if lost else 1.0
    return float(hits[0].mean()), float(hits[1].mean()), chance


# -- the table ---------------------------------------------------------------------------------------------------


def markdown(results: dict[Training, Result], command: str) -> str:
    """A table by task, and every training that made a model worse."""
    done = {training: result for training, result in results.items() if not result.refused}
    names = list(dict.fromkeys(training.task for training in done))
    rows = [[name, *_row({t: r for t, r in done.items() if t.task == name})] for name in names]
    rows.append(["**all**", *_row(done)])
    head = ["model", "trainings", "undrifted: before", "after", "drifted: before", "after", "worst fall", "worse"]
    lines = [f"    {command}", "", *_table(head, rows), ""]
    lines += [
        f"Worse: by more than {MARGIN:.0%}, and by more than chance explains at {1 - LEVEL:.0%}. Of {len(done):,} "
        f"trainings that change nothing in truth, chance alone would put {LEVEL * len(done):.0f} at most among them.",
        "",
    ]
    offenders = sorted((t for t, r in done.items() if r.worse), key=lambda t: done[t].after - done[t].before)
    if offenders:
        columns = ["model", "drift", "samples", "9:1", "seed", "before", "after", "by chance"]
        lines += [
            "Trainings that made a model worse:",
            "",
            *_table(columns, [_offender(t, done[t]) for t in offenders]),
            "",
        ]
    refused = {(t.task, r.refused): 0 for t, r in results.items() if r.refused}
    for training, result in results.items():
        if result.refused:
            refused[training.task, result.refused] += 1
    if refused:
        lines += ["Refused:", "", *(f"* {task} ({count}): {why}" for (task, why), count in refused.items()), ""]
    return "\n".join(lines)


def _row(results: dict[Training, Result]) -> list[str]:
    plain = [r for t, r in results.items() if not t.family]
    drifted = [r for t, r in results.items() if t.family]
    everything = list(results.values())
    means = [_mean([r.before for r in plain]), _mean([r.after for r in plain])]
    means += [_mean([r.before for r in drifted]), _mean([r.after for r in drifted])]
    worst = max((r.before - r.after for r in everything), default=0.0)
    return [str(len(everything)), *means, f"{100 * max(worst, 0.0):.1f} points", str(sum(r.worse for r in everything))]


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.4f}" if values else ""


def _offender(training: Training, result: Result) -> list[str]:
    drift = f"{training.family} {training.drift_seed}" if training.family else "none"
    uneven = "yes" if training.uneven else ""
    scores: list[Any] = [f"{result.before:.3f}", f"{result.after:.3f}", f"{result.chance:.1g}"]
    return [training.task, drift, str(result.samples), uneven, str(training.seed), *scores]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]
