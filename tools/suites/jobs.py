# SPDX-License-Identifier: Apache-2.0
"""The pieces of work of a benchmark. Each runs in a process of its own and keeps its result."""

from __future__ import annotations

import functools
import importlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from suites import fresh
from suites.adaptation import adapted
from suites.cache import Cache, digest, package_digest
from suites.case import Case
from suites.predict import predict, right
from suites.starts import model_at
from suites.suite import Method, Suite
from suites.yardsticks import Outcome, back_propagate
from tflm_zo import Trainer, patch

# Names of modules of this folder; what follows a dash is given to the module's load().
SUITES = ("kws", "cifar", "digits", "ad01", *(f"fresh-{name}" for name in fresh.PARTS))


@dataclass(frozen=True)
class Place:
    """Where a suite comes from, and where results are kept."""

    suite: str
    data: Path
    folder: Path

    def load(self) -> Suite:
        """Return the suite, from memory if this process has loaded it before."""
        return _load(self)

    @property
    def cache(self) -> Cache:
        """Results of the suite's jobs."""
        return Cache(self.folder / self.suite)


@functools.lru_cache(maxsize=1)
def _load(place: Place) -> Suite:
    name, _, part = place.suite.partition("-")
    module = importlib.import_module(f"suites.{name}")
    suite: Suite = module.load(place.data, place.folder / "prepared", *([part] if part else []))
    return suite


@dataclass(frozen=True)
class Run:
    """One training: test score, passes used, a digest of the weights, seconds."""

    score: float
    passes: int
    weights: str
    seconds: float


def train(place: Place, method: int, case: int, seed: int, passes: int, tflm: bool = False) -> Run:
    """Train with a method of the suite on the samples of a case and test, in the simulator or in TFLite Micro."""
    suite = place.load()
    how, what = suite.methods[method], suite.cases[case]
    key = digest(package_digest(), *_samples(what), _setting(how), seed, passes, tflm)
    about = {"method": how.name, "case": what.name, "seed": seed, "passes": passes, "in TFLite Micro": tflm}
    return Run(**place.cache.get(key, about, lambda: asdict(_train(how, what, seed, passes, tflm))))


def _train(method: Method, case: Case, seed: int, passes: int, tflm: bool) -> Run:
    started = time.perf_counter()
    if method.chain:
        model = adapted(case, passes, seed).model
        return Run(plain_score(model, case), passes, digest(model), time.perf_counter() - started)
    patched = patch(model_at(case, method.start), **method.patching)
    trainer = Trainer(patched, seed, engine="tflm" if tflm else "simulator")
    # A bound of epochs that is never reached: passes end the training.
    trainer.fit(case.x, case.y, epochs=passes, passes=passes, verbose=False, **method.fitting)
    weights = digest(*trainer.weights.values())
    return Run(score(trainer, case), trainer.progress.passes, weights, time.perf_counter() - started)


def score(trainer: Trainer, case: Case, before: bool = False) -> float:
    """Accuracy, or mean squared error in real units, on the test samples after (or before) the drift."""
    x, y = (case.x_before, case.y_before) if before else (case.x_test, case.y_test)
    if case.higher_is_better:
        return trainer.evaluate(x, y)["accuracy"]
    return float(np.mean(np.square(trainer.predict(x) - y)))


def yardstick(place: Place, number: int, case: int, seeds: int) -> Outcome:
    """Back-propagation on the samples of a case."""
    suite = place.load()
    return back_propagate(suite.yardsticks[number], suite.cases[case], seeds, place.cache)


def plain_score(model: bytes, case: Case, before: bool = False) -> float:
    """Score of a plain model after (or before) the drift, as :func:`score`."""
    x, y = (case.x_before, case.y_before) if before else (case.x_test, case.y_test)
    outputs = predict(model, x)
    return float(right(outputs, y).mean() if case.higher_is_better else np.mean(np.square(outputs - y)))


def untrained(case: Case) -> tuple[float, float]:
    """Scores of the model as it is, before and after the drift."""
    return plain_score(case.model, case, before=True), plain_score(case.model, case)


def prepared(place: Place, case: int, start: str) -> float:
    """Score after the drift of the model that a training starts from, untrained."""
    what = place.load().cases[case]
    return plain_score(model_at(what, start), what)


def _samples(case: Case) -> tuple[Any, ...]:
    return case.model, case.x, case.y, case.x_test, case.y_test, case.reference


def _setting(method: Method) -> tuple[Any, ...]:
    return sorted(method.patching.items()), sorted(method.fitting.items()), method.start, method.chain
