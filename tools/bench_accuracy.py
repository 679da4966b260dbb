#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Accuracy of training with forward passes only, beside back-propagation, on the same samples.

    python tools/bench_accuracy.py kws --data ../shared/data -o kws.md

Suite kws: the DS-CNN of MLPerf Tiny on 700 real utterances whose features drift; the first 400 adapt, the last
300 test. Each method trains from the int8 model, for each number of passes anew (learning rates decay over the
whole training), with each seed. Training runs in the simulator; the last column repeats one training of the
method with the best mean in TFLite Micro itself, where it must give the same weights.

Back-propagation is float, through all layers of the dequantized network, its settings chosen by cross-validation
on the 400 samples (see float_yardstick.py); it needs TensorFlow: pip install tflm-zo[convert].
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tflm_zo import Trainer, patch
from tflm_zo.files import write_atomic
from tflm_zo.simulator import SimTrainer

ADAPT, TEST = 400, 300


@dataclass(frozen=True, eq=False)
class Method:
    """How the model is patched and fitted."""

    name: str
    patching: dict[str, Any]
    fitting: dict[str, Any] = field(default_factory=dict)


METHODS = (
    Method("exact head alone", {"trainable": "head"}),
    Method("exact: head + last conv", {"trainable": "exact"}),
    Method("exact + input adapter", {"trainable": "exact", "adapter": True}),
)


# -- drifts, in codes of the model's input (samples, frames, coefficients) ---------------------------------


def _noise(x: np.ndarray) -> np.ndarray:
    return x + np.random.default_rng(7).normal(0, 5, x.shape)


def _shift(x: np.ndarray) -> np.ndarray:
    """Four frames late; the first frame stands in for what came before."""
    return np.concatenate([np.repeat(x[:, :1], 4, axis=1), x[:, :-4]], axis=1)


def _contrast(x: np.ndarray) -> np.ndarray:
    mean = x.mean(axis=(1, 2), keepdims=True)
    return mean + (x - mean) / 2


DRIFTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gain +15": lambda x: x + 15,
    "gain -15": lambda x: x - 15,
    "tilt": lambda x: x + np.linspace(-20, 20, 10),
    "noise": _noise,
    "time shift": _shift,
    "contrast": _contrast,
    "gain +15, noise": lambda x: _noise(x + 15),
}


@dataclass(frozen=True)
class Suite:
    """A model and its labelled samples (codes), before any drift."""

    model: bytes
    x: np.ndarray
    y: np.ndarray

    def drifted(self, drift: str) -> np.ndarray:
        """All samples after a drift, clipped to the codes there are."""
        values = DRIFTS[drift](self.x[..., 0].astype(np.float64))
        return np.clip(np.rint(values), -128, 127).astype(np.int8)[..., None]


def load_suite(data: Path) -> Suite:
    """Keyword spotting from the folder of models and samples."""
    samples = np.load(data / "kws01_dev.npz")
    return Suite((data / "mlperf_tiny" / "kws_ref_model.tflite").read_bytes(), samples["x"], samples["y"])


# -- what is measured; each a job of its own ---------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One training: test accuracy, passes used, a digest of the weights, seconds."""

    accuracy: float
    passes: int
    weights: bytes
    seconds: float


def train(suite: Suite, method: Method, drift: str, seed: int, passes: int, tflm: bool = False) -> Run:
    """Train on the drifted samples and test, in the simulator or in TFLite Micro."""
    started = time.perf_counter()
    x = suite.drifted(drift)
    trainer = (Trainer if tflm else SimTrainer)(patch(suite.model, **method.patching), seed=seed)
    trainer.fit(x[:ADAPT], suite.y[:ADAPT], epochs=passes, passes=passes, verbose=False, **method.fitting)
    accuracy = trainer.evaluate(x[-TEST:], suite.y[-TEST:])["accuracy"]
    weights = b"".join(value.tobytes() for value in trainer.weights.values())
    return Run(accuracy, trainer.progress.passes, weights, time.perf_counter() - started)


@dataclass(frozen=True)
class Yardstick:
    """Test accuracies of back-propagation, one a seed, and the settings chosen for it."""

    accuracies: tuple[float, ...]
    setting: str


def back_propagate(suite: Suite, drift: str, seeds: int) -> Yardstick:
    """Choose settings by cross-validation, then train on all adaptation samples with each seed."""
    from float_yardstick import FloatNetwork, choose

    x = suite.drifted(drift)
    network = FloatNetwork(suite.model)
    setting = choose(network, x[:ADAPT], suite.y[:ADAPT])
    accuracies = []
    for seed in range(seeds):
        network.train(x[:ADAPT], suite.y[:ADAPT], setting, seed)
        accuracies.append(network.accuracy(x[-TEST:], suite.y[-TEST:]))
    return Yardstick(tuple(accuracies), str(setting))


def untrained(suite: Suite) -> dict[str, float]:
    """Accuracy of the model as it is, by drift; "" without drift."""
    trainer = SimTrainer(patch(suite.model))
    samples = {"": suite.x} | {drift: suite.drifted(drift) for drift in DRIFTS}
    return {k: trainer.evaluate(x[-TEST:], suite.y[-TEST:])["accuracy"] for k, x in samples.items()}


# -- the report --------------------------------------------------------------------------------------------


def _mean(values: Iterable[float]) -> str:
    array = np.array(list(values))
    return f"{array.mean():.3f} ± {array.std():.3f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


Runs = dict[tuple[str, str, int, int], Run]


@dataclass(frozen=True)
class Results:
    """All that was measured; ``runs`` by method, drift, seed and passes."""

    budgets: tuple[int, ...]
    seeds: int
    plain: dict[str, float]
    runs: Runs
    yardsticks: dict[str, Yardstick]
    confirmed: dict[str, tuple[Run, Run]]
    arena: dict[str, int]

    def of(self, method: str, drift: str, passes: int) -> list[float]:
        """Accuracies, one a seed."""
        return [self.runs[method, drift, seed, passes].accuracy for seed in range(self.seeds)]

    def mean(self, method: str, passes: int) -> float:
        """Mean over drifts and seeds."""
        return float(np.mean([self.of(method, drift, passes) for drift in DRIFTS]))

    def best(self) -> tuple[str, int]:
        """Method and passes of the highest mean."""
        return max(((m.name, b) for m in METHODS for b in self.budgets), key=lambda pair: self.mean(*pair))


def report(results: Results, command: str) -> str:
    """The results in Markdown."""
    best, best_passes = results.best()
    most = max(results.budgets)
    names = [m.name for m in METHODS]
    columns = ["drift", "undrifted", "drifted", *names]
    if results.yardsticks:
        columns += ["float back-propagation", "its settings"]
    columns.append("same in TFLite Micro")
    rows = []
    for drift in DRIFTS:
        row = [drift, f"{results.plain['']:.3f}", f"{results.plain[drift]:.3f}"]
        row += [_mean(results.of(name, drift, most)) for name in names]
        if results.yardsticks:
            row += [_mean(results.yardsticks[drift].accuracies), results.yardsticks[drift].setting]
        rows.append([*row, _confirmation(results.confirmed.get(drift))])
    drifted = np.mean([results.plain[drift] for drift in DRIFTS])
    mean = [
        "**mean**",
        f"{results.plain['']:.3f}",
        f"{drifted:.3f}",
        *[f"**{results.mean(n, most):.3f}**" for n in names],
    ]
    if results.yardsticks:
        mean += [f"**{np.mean([y.accuracies for y in results.yardsticks.values()]):.3f}**", ""]
    rows.append([*mean, ""])

    curve = []
    for method in METHODS:
        used = {
            b: max(r.passes for k, r in results.runs.items() if k[0] == method.name and k[3] == b)
            for b in results.budgets
        }
        seconds = np.mean([r.seconds for k, r in results.runs.items() if k[0] == method.name and k[3] == most])
        curve.append(
            [
                method.name,
                *[f"{results.mean(method.name, budget):.3f}" for budget in results.budgets],
                f"{used[most]:,}",
                f"{results.arena[method.name] / 1024:.1f} KB",
                f"{seconds:.1f} s",
            ]
        )
    by_drift = [[drift, *[_mean(results.of(best, drift, budget)) for budget in results.budgets]] for drift in DRIFTS]
    budgets = [f"{budget:,} passes" for budget in results.budgets]
    parts = [
        f"    {command}",
        "",
        f"Test accuracy after {most:,} forward passes, mean and standard deviation over {results.seeds} seeds:",
        "",
        *_table(columns, rows),
        "",
        "Mean over drifts after a training of that many passes, the passes that the longest used, TFLite Micro's "
        "arena (as it counts itself, 64-bit), and seconds of the longest in the simulator:",
        "",
        *_table(["method", *budgets, "used", "arena", "seconds"], curve),
        "",
        f"{best} (best mean: {results.mean(best, best_passes):.3f} after {best_passes:,} passes), by drift:",
        "",
        *_table(["drift", *budgets], by_drift),
    ]
    return "\n".join(parts) + "\n"


def _confirmation(pair: tuple[Run, Run] | None) -> str:
    if pair is None:
        return ""
    sim, tflm = pair
    same = "yes" if (sim.weights, sim.accuracy) == (tflm.weights, tflm.accuracy) else "NO"
    return f"{same}: {tflm.accuracy:.3f} after {tflm.passes:,}"


# -- running it --------------------------------------------------------------------------------------------


def _one_thread() -> None:
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = "1"


def measure(suite: Suite, options: argparse.Namespace) -> Results:
    """Run all jobs, ``options.jobs`` at a time."""
    budgets = tuple(sorted(options.passes))
    keys = [(m, d, s, b) for b in budgets for m in METHODS for d in DRIFTS for s in range(options.seeds)]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        futures = {key: pool.submit(train, suite, *key) for key in keys}
        yardsticks = {}
        if not options.no_backprop:
            yardsticks = {drift: pool.submit(back_propagate, suite, drift, options.seeds) for drift in DRIFTS}
        runs: Runs = {}
        for (method, drift, seed, passes), future in futures.items():
            runs[method.name, drift, seed, passes] = run = future.result()
            print(f"{method.name}, {drift}, seed {seed}, {run.passes} passes: {run.accuracy:.3f}", file=sys.stderr)
        results = Results(
            budgets,
            options.seeds,
            untrained(suite),
            runs,
            {},
            {},
            {m.name: SimTrainer(patch(suite.model, **m.patching)).arena_bytes for m in METHODS},
        )
        best = next(m for m in METHODS if m.name == results.best()[0])
        confirmations = {
            drift: pool.submit(train, suite, best, drift, 0, min(budgets), True)
            for drift in (DRIFTS if options.confirm else ())
        }
        for drift, yardstick in yardsticks.items():
            results.yardsticks[drift] = yardstick.result()
            print(f"back-propagation, {drift}: {results.yardsticks[drift]}", file=sys.stderr)
        for drift, confirmation in confirmations.items():
            results.confirmed[drift] = (runs[best.name, drift, 0, min(budgets)], confirmation.result())
    return results


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=["kws"])
    parser.add_argument("--data", type=Path, required=True, help="folder of the models and samples")
    parser.add_argument("--passes", type=int, nargs="+", default=[5000, 20000, 50000, 200000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default: 1)")
    parser.add_argument("--no-backprop", action="store_true", help="leave the yardstick out")
    parser.add_argument(
        "--confirm", action="store_true", help="repeat the best method in TFLite Micro, with the fewest passes"
    )
    parser.add_argument("-o", "--output", type=Path, help="Markdown file (default: standard output)")
    options = parser.parse_args()
    _one_thread()
    results = measure(load_suite(options.data), options)
    text = report(results, " ".join(["python", "tools/bench_accuracy.py", *sys.argv[1:]]))
    if options.output is None:
        print(text)
    else:
        write_atomic(options.output, text.encode())


if __name__ == "__main__":
    main()
