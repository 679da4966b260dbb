# SPDX-License-Identifier: Apache-2.0
"""What a fit does for its guard: which samples it trains on, when it looks whether that helps, and what follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.training.guard import CUT, MOST_CUTS, MOST_TRIALS, Guard, Scores, Verdict, checks, held_out_count, hold_out

# A fit has no guard if looking twice would take more than this part of its passes.
_MOST_OF_PASSES = 0.25
# With fewer samples nothing can be told, and a fit has no guard.
FEWEST = 8
# The part of a fit that comes before the held-out samples are trained on, too.
_BEFORE_ALL = 0.7


class Guarded(Protocol):
    """The fit, as far as a watch needs it."""

    def keep(self) -> None:
        """Remember the present weights as the best."""

    def return_to_kept(self) -> None:
        """Bring the remembered weights back."""

    def scores(self, codes: np.ndarray, targets: np.ndarray) -> Scores:
        """Score the present weights on samples, a pass for each."""


@dataclass(frozen=True)
class Phase:
    """A part of a fit: indices of the samples that it ``trains`` on, and of those that it ``judges`` its weights by,
    none in the last phase; and which part it may take of the ``passes`` that are left, and of the fit's ``epochs``."""

    trains: np.ndarray
    judges: np.ndarray
    passes: float = 1.0
    epochs: float = 1.0


def divide(
    labels: np.ndarray | None, samples: int, share: float | None, passes: int | None, seed: int
) -> tuple[Phase, ...]:
    """Return the phases of a fit on ``samples`` with ``labels`` (n,), None without classes.

    With enough samples some are held out, until the others have shown that training helps; then all are trained on,
    from the best weights. Few samples are trained on by halves, each from the start; then all are, from the start.
    ``share``: the hyperparameter ``holdout``; ``passes``: the bound of passes, if any. One phase that judges by nothing
    is a fit without a guard.
    """
    everything = np.arange(samples)
    alone = (Phase(everything, everything[:0]),)
    if share == 0 or samples < FEWEST:
        return alone
    count = held_out_count(samples, share)
    if passes is not None and 2 * (count or samples) > _MOST_OF_PASSES * passes:
        return alone
    if count:
        trained, held = hold_out(labels, samples, count, seed)
        return (
            Phase(trained, held, _BEFORE_ALL, _BEFORE_ALL),
            Phase(everything, everything[:0], epochs=1.0 - _BEFORE_ALL),
        )
    first, second = hold_out(labels, samples, samples // 2, seed)
    return Phase(first, second, 0.25), Phase(second, first, 1.0 / 3.0), *alone


@dataclass
class Outcome:
    """What the guard of a fit did: ``mode`` ("held out", "halves" or "none"), the number of ``samples`` that judged,
    how often it ``looked``, the number of ``cuts`` of the rates, what was ``kept`` ("start", "best" of several looks,
    or "last"), and mean errors (:mod:`tflm_zo.training.guard`) of the start and of the judged best, None without a
    guard."""

    mode: str = "none"
    samples: int = 0
    looked: int = 0
    cuts: int = 0
    kept: str = "last"
    error_before: float | None = None
    error_after: float | None = None


def explain(outcome: Outcome) -> str:
    """Return in one line what the guard of a fit did."""
    if outcome.mode == "none":
        return "no guard (too few samples or passes, or none wanted): the last weights are kept"
    if outcome.error_before is None:
        return "the guard has not judged yet"
    how = "held out" if outcome.mode == "held out" else "trained on in turn, by halves"
    cuts = f"; learning rates cut {outcome.cuts} times" if outcome.cuts else ""
    if outcome.kept == "start":
        return (
            f"training is not seen to help on {outcome.samples} samples {how}: the weights of the start are kept{cuts}"
        )
    after = "" if outcome.error_after is None else f" -> {outcome.error_after:.3f}"
    return f"training helps: error {outcome.error_before:.3f}{after} on {outcome.samples} samples {how}{cuts}"


class Watch:
    """The guard of one fit on samples ``codes`` (n, ...) with ``targets`` (n, ...) and ``labels`` (n,) or None, of
    ``classes``, some of them ``new`` to the model."""

    def __init__(
        self,
        phases: tuple[Phase, ...],
        codes: np.ndarray,
        targets: np.ndarray,
        labels: np.ndarray | None,
        classes: int = 0,
        new: frozenset[int] = frozenset(),
    ) -> None:
        self._phases = phases
        self._codes, self._targets, self._classes, self.new = codes, targets, classes, new
        self._judges = np.concatenate([phase.judges for phase in phases])
        self._labels = None if labels is None else labels[self._judges]
        self._trial: list[Scores] = []
        self.guard: Guard | None = None
        self.phase = 0
        # Passes before the phase began; 0: not known yet.
        self.spent = 0
        self.factor = 1.0
        self.finished = False
        self.outcome = Outcome()
        if self.guards:
            self.outcome.mode = "halves" if self._halves else "held out"
            self.outcome.samples = len(self._judges)

    @property
    def guards(self) -> bool:
        """Whether there is a guard at all."""
        return len(self._judges) > 0

    @property
    def _halves(self) -> bool:
        return len(self._phases) > 2

    @property
    def trains(self) -> np.ndarray:
        """Indices of the samples that the present phase trains on."""
        return self._phases[self.phase].trains

    @property
    def unjudged(self) -> bool:
        """Whether the present weights have still to be found better than those that are kept."""
        return self.guard is not None and len(self._phases[self.phase].judges) > 0

    @property
    def start_passes(self) -> int:
        """Passes that scoring the start takes."""
        return len(self._judges)

    def part_of_passes(self) -> float:
        """The part of the passes that are left which the present phase may use."""
        return self._phases[self.phase].passes

    def epochs(self, wanted: int) -> int:
        """Epochs of the present phase of a fit of so many."""
        return max(1, round(self._phases[self.phase].epochs * wanted))

    def passes(self, total: int) -> int:
        """Passes that a phase of ``total`` passes leaves to its guard."""
        judges = len(self._phases[self.phase].judges)
        if judges == 0:
            return 0
        return judges if self._halves else judges * checks(total, judges)

    def begin(self, fit: Guarded) -> None:
        """Score and remember the weights that the fit begins with."""
        if not self.guards:
            return
        start = self._score(fit, self._judges)
        self.guard = Guard(self._labels, start, classes=self._classes, new=self.new)
        self.outcome.error_before = float(np.mean(start.errors))
        self.outcome.kept = "start"
        self.finished = not self.guard.can_gain
        fit.keep()

    def after_epoch(self, fit: Guarded, done: int, epochs: int, passes: int) -> bool:
        """Judge the weights after ``done`` of ``epochs`` epochs of ``passes`` in all, if it is time; returns whether
        another phase begins."""
        if not self.unjudged or self.guard is None:
            return False
        judges = self._phases[self.phase].judges
        if self._halves:
            return done == epochs and self._next_half(fit, self.guard, self._score(fit, judges))
        looks = min(checks(passes, len(judges)), epochs)
        if done * looks // epochs == (done - 1) * looks // epochs:
            return False
        self.outcome.looked += 1
        verdict = self.guard.judge(self._score(fit, judges))
        if verdict is Verdict.BETTER:
            self.outcome.kept = "best"
            fit.keep()
        elif verdict is Verdict.WORSE:
            self._cut()
            fit.return_to_kept()
        if done < epochs or self.guard.best_is_start or self.finished or self.guard.fading:
            return False
        # Training helps, and did so to the end of this phase: now the held-out samples are trained on, too.
        fit.return_to_kept()
        self.phase += 1
        self.outcome.kept = "last"
        return True

    def give_up(self) -> None:
        """No passes are left for the phase that was to follow: what is kept is what it would have begun with."""
        self.finished = True
        if self.guard is not None:
            self.outcome.kept = "start" if self._halves or self.guard.best_is_start else "best"

    def end(self, fit: Guarded) -> None:
        """Leave the best weights in the model."""
        if self.guard is None:
            return
        if self.finished or self.unjudged:
            fit.return_to_kept()
        self.outcome.error_after = float(np.mean(self.guard.best.errors))

    def _next_half(self, fit: Guarded, guard: Guard, scores: Scores) -> bool:
        """A half has been trained on. After the second the halves are judged together."""
        fit.return_to_kept()
        self._trial.append(scores)
        self.phase += 1
        if len(self._trial) < len(self._phases) - 1:
            return True
        self.outcome.looked += 1
        right = [s.right for s in self._trial if s.right is not None]
        together = Scores(
            np.concatenate([s.errors for s in self._trial]),
            np.concatenate(right) if right else None,
            np.concatenate([s.losses for s in self._trial]),
        )
        self._trial = []
        if guard.judge(together) is Verdict.BETTER:
            self.outcome.kept = "last"
            return True
        self._cut()
        self.phase = 0
        return not self.finished

    def _cut(self) -> None:
        self.factor *= CUT
        self.outcome.cuts += 1
        self.finished = self.outcome.cuts > (MOST_CUTS if not self._halves else MOST_TRIALS)

    def _score(self, fit: Guarded, indices: np.ndarray) -> Scores:
        return fit.scores(self._codes[indices], self._targets[indices])


@dataclass
class WatchState:
    """A watch as a checkpoint keeps it."""

    values: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def state_of(watch: Watch) -> WatchState:
    """Return what :func:`restore` needs."""
    values = {name: getattr(watch, name) for name in _COUNTERS}
    state = WatchState({**values, "finished": watch.finished, "outcome": dict(vars(watch.outcome))})
    if watch.new:
        state.values["new"] = sorted(watch.new)
    if watch.guard is not None:
        state.values["best_is_start"] = watch.guard.best_is_start
        _put(state, "best", watch.guard.best)
    for number, scores in enumerate(watch._trial):
        _put(state, f"trial/{number}", scores)
    return state


def restore(watch: Watch, state: WatchState) -> None:
    """Bring ``watch``, new and of the same samples, to where another was; raises :class:`ZoError` for other samples."""
    judges = len(state.arrays["best/errors"]) if "best_is_start" in state.values else 0
    if judges not in (0, len(watch._judges)):
        raise ZoError(
            "the fit to go on with was guarded by other samples: give the same samples and hyperparameters, or start "
            "without resuming"
        )
    if int(state.values["phase"]) >= len(watch._phases):
        raise ZoError(
            "the fit to go on with had another guard: give the same hyperparameters, or start without resuming"
        )
    for name, kind in _COUNTERS.items():
        setattr(watch, name, kind(state.values[name]))
    # The weights of an unfinished fit no longer tell which classes were new to its start.
    watch.new = frozenset(state.values.get("new", ()))
    watch.finished = bool(state.values["finished"])
    watch.outcome = Outcome(**state.values["outcome"])
    if "best_is_start" in state.values:
        start = bool(state.values["best_is_start"])
        watch.guard = Guard(watch._labels, _get(state, "best"), start, watch._classes, watch.new)
    watch._trial = [_get(state, f"trial/{n}") for n in range(watch.phase) if f"trial/{n}/errors" in state.arrays]


def check_state(state: WatchState) -> None:
    """Raise ValueError, KeyError or TypeError if ``state`` is not one that :func:`state_of` has made."""
    values = state.values
    if not (0 <= float(values["factor"]) <= 1 and 0 <= int(values["phase"]) <= 2 and int(values["spent"]) >= 0):
        raise ValueError("guard")
    if not isinstance(values["finished"], bool):
        raise ValueError("guard")
    if not all(isinstance(number, int) for number in values.get("new", ())):
        raise ValueError("guard")
    Outcome(**values["outcome"])
    for name in state.arrays:
        if name.endswith("/errors"):
            _check_scores(_get(state, name.removesuffix("/errors")))
    if "best_is_start" in values:
        _get(state, "best")


# Numbers of a watch that a checkpoint keeps.
_COUNTERS: dict[str, type] = {"factor": float, "spent": int, "phase": int}


def _put(state: WatchState, name: str, scores: Scores) -> None:
    state.arrays[f"{name}/errors"], state.arrays[f"{name}/losses"] = scores.errors, scores.losses
    if scores.right is not None:
        state.arrays[f"{name}/right"] = scores.right


def _get(state: WatchState, name: str) -> Scores:
    return Scores(state.arrays[f"{name}/errors"], state.arrays.get(f"{name}/right"), state.arrays[f"{name}/losses"])


def _check_scores(scores: Scores) -> None:
    shape = scores.errors.shape
    if scores.errors.dtype != np.float64 or len(shape) != 1 or not np.all(np.isfinite(scores.errors)):
        raise ValueError("scores")
    if scores.losses.dtype != np.float64 or scores.losses.shape != shape or not np.all(np.isfinite(scores.losses)):
        raise ValueError("scores")
    if scores.right is not None and (scores.right.dtype != np.bool_ or scores.right.shape != shape):
        raise ValueError("scores")
