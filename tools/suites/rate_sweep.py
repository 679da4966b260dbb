# SPDX-License-Identifier: Apache-2.0
"""How near the default learning rates come to the best of a sweep over five decades.

The loss of the samples that a training was given, after a number of passes without a guard: with the rates as they are
measured, and with the same rates times 0.01 to 100. What counts is how much of the best's fall the default reaches.
Weights and nodes are perturbed beside a frozen head: one that learns in closed form would hide what they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from suites.drifts import family_of_turn
from suites.task import Task
from tflm_zo import Trainer, patch
from tflm_zo.errors import ZoError
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.training.hyperparameters import Hyperparameters

FACTORS = (0.01, 0.1, 1.0, 10.0, 100.0)
METHODS = ("exact", "adapter", "weights", "nodes")


@dataclass(frozen=True)
class Sweep:
    """``start``: loss before training; ``losses``: after it, by factor of the rates. ``refused``: why there is none."""

    start: float = 0.0
    losses: tuple[float, ...] = ()
    refused: str = ""

    @property
    def default(self) -> float:
        """Loss with the rates as they are measured."""
        return self.losses[FACTORS.index(1.0)]

    @property
    def best(self) -> float:
        """The lowest loss, that of no training included."""
        return min(self.start, *self.losses)

    @property
    def part(self) -> float:
        """How much of the best's fall the default reaches."""
        return (self.start - self.default) / (self.start - self.best) if self.best < self.start else 1.0


def sweep(task: Task, method: str, drift_seed: int, samples: int, passes: int) -> Sweep:
    """Train ``task`` by ``method`` with each factor, on a drift of the family whose turn a seed is."""
    case = task.case(family_of_turn(task.name, task.kind, drift_seed), drift_seed)
    x, y = case.x[:samples], case.y[:samples]
    selected = {"exact": "exact", "adapter": "adapter"}.get(method, "all")
    try:
        model = patch(task.model, selected, adapter=method == "adapter", loss=task.loss)
    except ZoError as error:
        return Sweep(refused=str(error))
    learner = Trainer(model, 0)
    start = learner.evaluate(x, y)["loss"]
    losses = []
    for factor in FACTORS:
        learner.reset()
        learner.fit(
            x, y, epochs=1000, passes=passes, holdout=0.0, verbose=False, **_scaled(learner.model, method, factor)
        )
        losses.append(learner.evaluate(x, y)["loss"])
    return Sweep(start, tuple(losses))


def _scaled(model: PatchedModel, method: str, factor: float) -> Mapping[str, Any]:
    if method == "exact":
        return {"exact_lr_scale": factor}
    if method == "adapter":
        return {"adapter_lr": factor * Hyperparameters().adapter_lr}
    heads = {p.layer: "frozen" for p in model.parameters if p.entry.layer == model.head_layer}
    return {"method": {**heads, "*": method}, "lr_scale": factor}


def markdown(results: Mapping[tuple[str, str, int], Sweep], command: str) -> str:
    """The table: a line for each task and method, a column for each drift seed."""
    seeds = sorted({seed for _, _, seed in results})
    lines = [
        f"`{command}`",
        "",
        "| model | method | " + " | ".join(f"drift {seed}" for seed in seeds) + " |",
        "|---" * (len(seeds) + 2) + "|",
    ]
    for task, method in dict.fromkeys((task, method) for task, method, _ in results):
        cells = [_cell(results[task, method, seed]) for seed in seeds]
        lines.append(f"| {task} | {method} | {' | '.join(cells)} |")
    for method in METHODS:
        parts = [
            [r.part for (_, m, s), r in results.items() if (m, s) == (method, seed) and not r.refused] for seed in seeds
        ]
        said = ", ".join(f"{sum(part >= 0.5 for part in of_seed)} of {len(of_seed)}" for of_seed in parts)
        lines.append(f"\n{method}: at least half of the best in {said}")
    return "\n".join(lines) + "\n"


def _cell(result: Sweep) -> str:
    if result.refused:
        return result.refused
    return f"{result.part:.2f} ({result.start:.3g}: {result.default:.3g}, {result.best:.3g})"
