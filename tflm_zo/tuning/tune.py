# SPDX-License-Identifier: Apache-2.0
"""Search for hyperparameters: trainings in the simulator, scored on held-out folds; TFLite Micro confirms the best."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.patching.bake import bake
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.progress_bar import ProgressBar
from tflm_zo.simulator.model import SimModel
from tflm_zo.tflm import wheel
from tflm_zo.training.folds import Samples, into_folds, score_fold
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.trainer import Trainer
from tflm_zo.tuning.space import SearchSpace, traits_of
from tflm_zo.tuning.workers import Workers

if TYPE_CHECKING:
    import optuna

TRIALS, PASSES, FOLDS = 40, 20_000, 3

# Trials are drawn in groups of this size, each from the results of the groups before it: whatever the number of
# processes, and wherever a search was broken off, the same trials are drawn.
_GROUP = 8
_STUDY = "tflm-zo"
_TASK = "task"
_FOLDS = "folds"


@dataclass(frozen=True)
class Tuned:
    """The result of a search: hyperparameters for a fit, ``seed`` among them, held-out results (``loss`` and, for
    classes, ``accuracy``) of the defaults and of the best trial, trials in all and those given up early, the best
    one's number (0: the defaults), and results on the samples it was finally trained on, with the count of passes.
    ``confirmed``: TFLite Micro, where its wheel is, has trained the same weights."""

    hyperparameters: dict[str, Any]
    searched: tuple[str, ...]
    defaults: dict[str, float]
    best: dict[str, float]
    best_trial: int
    trials: int
    pruned: int
    trained: dict[str, float]
    passes: int
    confirmed: bool


def tune(
    model: bytes,
    x: np.ndarray,
    y: np.ndarray,
    study: str | os.PathLike[str],
    *,
    trials: int = TRIALS,
    passes: int = PASSES,
    folds: int = FOLDS,
    seed: int = 0,
    jobs: int = 1,
    fixed: Mapping[str, Any] | None = None,
    verbose: bool = True,
) -> Tuned:
    """Search the hyperparameters with which the patched ``model`` learns best from samples ``x`` with labels ``y``.

    A trial trains once for each of ``folds`` parts of the samples, on the others, with at most ``passes`` forward
    passes, in the simulator; its score is the mean loss on the parts left out. The first trial has the defaults,
    the others come from Optuna's TPE sampler; one whose first folds are worse than the median is given up. The
    best is trained on all samples in the simulator and in TFLite Micro, which must agree to the bit.

    ``study`` is the file of Optuna's storage (SQLite): if it exists the search goes on from it, up to ``trials``
    in all. ``fixed`` holds hyperparameters that are not searched. ``jobs`` processes train side by side. The same
    arguments give the same result, whatever the number of jobs. Raises :class:`ZoError` for unusable arguments,
    without Optuna, for a study of another search, and if Ctrl-C ended the search.
    """
    if trials < 1:
        raise ZoError(f"trials is {trials}: it must be 1 or more")
    if passes < 1:
        raise ZoError(f"passes is {passes}: it must be 1 or more")
    SimModel(bake(read_patched(model).data, {}))  # raises if the model cannot be simulated
    samples = into_folds(x, y, folds, seed)
    try:
        with _storage_errors(study):
            search = _Search(model, samples, Path(study), passes, seed, dict(fixed or {}))
            search.run(trials, jobs, verbose)
            return search.result(verbose)
    except KeyboardInterrupt:
        raise ZoError("interrupted: the same command goes on from there") from None


@dataclass
class _Trial:
    """A trial in work: its folds' results (samples, loss, accuracy or None), as the storage keeps them too."""

    trial: optuna.Trial
    hyperparameters: dict[str, Any]
    folds: list[tuple[int, float, float | None]] = field(default_factory=list)
    value: float | None = None  # None after its end: it was given up

    def report(self, first: int) -> None:
        """Tell Optuna the mean losses over the folds so far, those of the folds from ``first`` on."""
        for step in range(first, len(self.folds)):
            self.trial.report(_means(self.folds[: step + 1])["loss"], step)


class _Search:
    def __init__(
        self, model: bytes, samples: Samples, path: Path, passes: int, seed: int, fixed: dict[str, Any]
    ) -> None:
        self.optuna = _import_optuna()
        self.model, self.samples, self.passes, self.seed = model, samples, passes, seed
        self.fixed: dict[str, Any] = {"epochs": passes, "passes": passes} | fixed
        traits = traits_of(read_patched(model), Hyperparameters(**self.fixed))
        self.space = SearchSpace(traits, self.fixed)
        self.study = self._open(path)

    def _open(self, path: Path) -> optuna.Study:
        from sqlalchemy.engine import URL

        try:
            study = self.optuna.create_study(
                storage=URL.create("sqlite", database=str(path)).render_as_string(),
                study_name=_STUDY,
                load_if_exists=True,
                pruner=self.optuna.pruners.MedianPruner(n_startup_trials=5),
            )
        except RuntimeError as error:
            raise ZoError(f"{path} was made by another version of Optuna: {error}") from error
        task = self._task()
        if study.user_attrs.get(_TASK, task) != task:
            raise ZoError(
                f"{path} is a search with another model, other samples or other settings: give the same ones to go "
                "on with it, or remove it to start anew"
            )
        study.set_user_attr(_TASK, task)
        return study

    def _task(self) -> str:
        """A digest of all that the trials depend on."""
        digest = hashlib.sha256(self.model)
        for array in (self.samples.x, self.samples.y, *self.samples.folds):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        space = {name: str(values) for name, values in self.space.distributions().items()}
        digest.update(json.dumps([self.fixed, self.seed, space], sort_keys=True).encode())
        return digest.hexdigest()

    # -- trials ----------------------------------------------------------------------------------------------

    def run(self, trials: int, jobs: int, verbose: bool) -> None:
        """Carry out trials until there are ``trials``."""
        self._take_up()
        folds = len(self.samples.folds)
        done = len(self._finished())
        with Workers(jobs) as workers, ProgressBar(max(trials - done, 0) * folds, verbose, "fold") as bar:
            while done < trials:
                group = [self._ask(done + i) for i in range(min(_GROUP - done % _GROUP, trials - done))]
                self._run_group(group, workers, bar)
                done += len(group)
                bar.show({"defaults": self._defaults().value or 0.0, "best": self.study.best_value})

    def _take_up(self) -> None:
        """Let trials that were in work when the search was broken off be asked for again, with the folds they have."""
        states = self.optuna.trial.TrialState
        known = self.study.get_trials(deepcopy=False)
        if not known:
            self.study.enqueue_trial(self.space.defaults())
        for trial in known:
            if trial.state is states.RUNNING:
                if set(trial.params) == set(self.space.names):
                    self.study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
                self.study.tell(trial.number, state=states.FAIL)

    def _finished(self) -> list[optuna.trial.FrozenTrial]:
        states = self.optuna.trial.TrialState
        return self.study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))

    def _ask(self, number: int) -> _Trial:
        # A sampler of its own for each trial: what it draws depends on finished groups alone.
        self.study.sampler = self.optuna.samplers.TPESampler(seed=1000 * self.seed + number)
        trial = self.study.ask(self.space.distributions())
        hyperparameters = self.fixed | self.space.hyperparameters(trial.params, self.fixed)
        asked = _Trial(trial, hyperparameters, [tuple(fold) for fold in trial.user_attrs.get(_FOLDS, [])])
        asked.report(0)
        return asked

    def _run_group(self, group: list[_Trial], workers: Workers, bar: ProgressBar) -> None:
        folds = len(self.samples.folds)
        waiting = deque(group)
        running: dict[Future[Any], _Trial] = {}
        while waiting or running:
            while waiting and len(running) < workers.jobs:
                trial = waiting.popleft()
                if len(trial.folds) == folds:
                    trial.value = _means(trial.folds)["loss"]
                elif trial.folds and trial.trial.should_prune():
                    bar.advance(folds - len(trial.folds))
                else:
                    running[self._start(trial, workers)] = trial
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial = running.pop(future)
                try:
                    score = future.result()
                except ZoError:
                    if trial.hyperparameters == self.fixed:
                        raise
                    bar.advance(folds - len(trial.folds))  # this patched model cannot take so many passes a step
                    continue
                trial.folds.append((len(score.losses), score.loss, score.accuracy))
                trial.trial.set_user_attr(_FOLDS, trial.folds)
                trial.report(len(trial.folds) - 1)
                waiting.appendleft(trial)
                bar.advance(1)
        # Not before the group is complete: pruning looks at finished trials, and must not depend on which was quicker.
        for trial in group:
            pruned = self.optuna.trial.TrialState.PRUNED if trial.value is None else None
            self.study.tell(trial.trial, trial.value, state=pruned)

    def _start(self, trial: _Trial, workers: Workers) -> Future[Any]:
        fold = len(trial.folds)
        return workers.submit(score_fold, self.model, self.samples, fold, self.seed, self.passes, trial.hyperparameters)

    # -- the best --------------------------------------------------------------------------------------------

    def _defaults(self) -> optuna.trial.FrozenTrial:
        """The trial of the defaults; it is in the first group, which is never given up."""
        return next(trial for trial in self._finished() if trial.params == self.space.defaults())

    def result(self, verbose: bool) -> Tuned:
        """Train the best trial's hyperparameters on all samples, in the simulator and, where it is, in TFLite Micro."""
        best = self.study.best_trial
        finished = self._finished()
        hyperparameters = self.fixed | self.space.hyperparameters(best.params, self.fixed)
        x, y = self.samples.x, self.samples.y
        simulated = Trainer(self.model, seed=self.seed, engine="simulator")
        trainers = [simulated]
        if wheel.available():
            trainers.append(Trainer(self.model, seed=self.seed, engine="tflm"))
        for trainer in trainers:
            shown = verbose and trainer is trainers[-1]
            if trainer.fit(x, y, verbose=shown, **hyperparameters).interrupted:
                raise KeyboardInterrupt
        if simulated.bake() != trainers[-1].bake():
            raise ZoError("the simulator and TFLite Micro have trained different weights: please report this")
        return Tuned(
            hyperparameters=hyperparameters | {"seed": self.seed},
            searched=self.space.names,
            defaults=_means(self._defaults().user_attrs[_FOLDS]),
            best=_means(best.user_attrs[_FOLDS]),
            best_trial=finished.index(best),
            trials=len(finished),
            pruned=sum(trial.state is self.optuna.trial.TrialState.PRUNED for trial in finished),
            trained=simulated.evaluate(x, y),
            passes=simulated.progress.passes,
            confirmed=len(trainers) > 1,
        )


def _means(folds: Sequence[Sequence[Any]]) -> dict[str, float]:
    """Means over the samples of folds (samples, loss, accuracy or None)."""
    counts = [fold[0] for fold in folds]
    scores = {"loss": float(np.average([fold[1] for fold in folds], weights=counts))}
    if folds[0][2] is not None:
        scores["accuracy"] = float(np.average([fold[2] for fold in folds], weights=counts))
    return scores


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ZoError("tuning needs Optuna: pip install 'tflm-zo[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextmanager
def _storage_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of Optuna's storage into :class:`ZoError`."""
    optuna = _import_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        reason = str(getattr(error, "orig", None) or error.__cause__ or error).splitlines()[0]
        raise ZoError(f"{path} cannot be used as the study's file: {reason}") from error
