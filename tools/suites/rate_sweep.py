# SPDX-License-Identifier: Apache-2.0
"""How near the default learning rates come to the best of a sweep over five decades.

The loss of the samples that a training was given, after a number of passes without a guard: with the rates as they are
measured, and with the same rates times 0.01 to 100. What counts is how much of the best's fall the default reaches.
Weights and nodes are perturbed beside a frozen head: one that learns in closed form would hide what they do.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from suites.drifts import families
from suites.predict import trainer
from suites.task import Task
from tflm_zo import patch
from tflm_zo.errors import ZoError
from tflm_zo.patching.patched_model import PatchedModel

FACTORS = (0.01, 0.1, 1.0, 10.0, 100.0)
METHODS = ("exact", "adapter", "weights", "nodes")
_ADAPTER_LR = 0.005


@dataclass(frozen=True)
class Sweep:
    """``start``: loss before training; ``losses``: after it, by factor of the rates. ``refused``: why there is none."""

    drift: str = ""
    start: float = 0.0
    losses: tuple[float, ...] = ()
    refused: str = ""

    @property
    def part(self) -> float:
        """How much of the best's fall the default reaches."""
        best = min(self.start, *self.losses)
        fallen = self.start - self.losses[FACTORS.index(1.0)]
        return fallen / (self.start - best) if best < self.start else 1.0


def sweep(task: Task, method: str, drift_seed: int, samples: int, passes: int) -> Sweep:
    """Train ``task`` by ``method`` with each factor, on a drift of a family that the task's name picks."""
    known = families(task.kind)
    case = task.case(known[zlib.crc32(task.name.encode()) % len(known)], drift_seed)
    x, y = case.x[:samples], case.y[:samples]
    selected = {"exact": "exact", "adapter": "adapter"}.get(method, "all")
    try:
        model = patch(task.model, selected, adapter=method == "adapter", loss=task.loss)
    except ZoError as error:
        return Sweep(refused=str(error))
    learner = trainer(model, 0)
    start = learner.evaluate(x, y)["loss"]
    losses = []
    for factor in FACTORS:
        learner.reset()
        learner.fit(
            x, y, epochs=1000, passes=passes, holdout=0.0, verbose=False, **_scaled(learner.model, method, factor)
        )
        losses.append(learner.evaluate(x, y)["loss"])
    return Sweep(case.about or case.group, start, tuple(losses))


def _scaled(model: PatchedModel, method: str, factor: float) -> Mapping[str, Any]:
    if method == "exact":
        return {"exact_lr_scale": factor}
    if method == "adapter":
        return {"adapter_lr": factor * _ADAPTER_LR}
    heads = {p.layer: "frozen" for p in model.parameters if p.entry.layer == model.head_layer}
    return {"method": {**heads, "*": method}, "lr_scale": factor}


def markdown(results: Mapping[tuple[str, str], Sweep], command: str) -> str:
    """The table: a line for each task and method."""
    lines = [
        f"`{command}`",
        "",
        "| model, drift | method | untrained | " + " | ".join(f"{f:g} x" for f in FACTORS) + " | default / best |",
        "|---" * (len(FACTORS) + 4) + "|",
    ]
    for (task, method), result in results.items():
        if result.refused:
            lines.append(f"| {task} | {method} | {result.refused} |" + " |" * (len(FACTORS) + 1))
            continue
        losses = " | ".join(f"{loss:.3g}" for loss in result.losses)
        lines.append(f"| {task}, {result.drift} | {method} | {result.start:.3g} | {losses} | {result.part:.2f} |")
    for method in METHODS:
        parts = [r.part for (_, m), r in results.items() if m == method and not r.refused]
        if parts:
            half = sum(part >= 0.5 for part in parts)
            lines.append(f"\n{method}: at least half of the best in {half} of {len(parts)}")
    return "\n".join(lines) + "\n"
