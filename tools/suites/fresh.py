# SPDX-License-Identifier: Apache-2.0
"""Fresh drifts: of every family (:mod:`suites.drifts`) as many as there are seeds for tables, for several models.

``fresh-kws``: keyword spotting; ``fresh-resnet`` and ``fresh-mcunet``: CIFAR-10; ``fresh-inertial``: exercises by a
smartwatch; ``fresh-keras``: small networks as people write them. With ``-first`` behind it, one drift of each family;
with ``-tuning``, drifts to tune with.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from suites import tasks
from suites.drifts import TABLE_SEEDS, TUNING_SEEDS, families
from suites.float_network import Setting
from suites.starts import PREPARED
from suites.suite import Method, Suite, Yardstick

# Tasks of each suite.
MODELS = {
    "kws": ("kws",),
    "resnet": ("resnet",),
    "mcunet": ("mcunet",),
    "inertial": ("conv1d flat", "conv1d gap"),
    "keras": ("gap", "mobilenet", "dense digits", "dense cancer"),
}
# Two variants of each suite, which the tables do not use: with one drift of each family ("first"), and with drifts of
# the seeds that constants are chosen with ("tuning").
_FIRST, _TUNING = "first", "tuning"
PARTS = tuple(f"{name}{form}" for form in ("", f"-{_FIRST}", f"-{_TUNING}") for name in MODELS)

METHODS = (
    Method("default"),
    Method("adapt", start=PREPARED, chain=True),
)

GRIDS = {
    "kws": (Setting("Adam", 3e-4, 50), Setting("Adam", 1e-3, 20), Setting("Adam", 1e-3, 50)),
    "resnet": (Setting("Adam", 3e-4, 30, True), Setting("Adam", 1e-4, 30), Setting("SGD", 3e-3, 30, True)),
    "mcunet": (Setting("Adam", 1e-4, 10), Setting("SGD", 3e-3, 10)),
    "inertial": (Setting("Adam", 3e-4, 50), Setting("Adam", 1e-3, 20), Setting("Adam", 3e-3, 20)),
    "keras": (Setting("Adam", 1e-3, 30), Setting("Adam", 3e-3, 30), Setting("SGD", 1e-2, 50)),
}


def load(data: Path, prepared: Path, part: str) -> Suite:
    """The suite of the models ``part``, ``part-first`` or ``part-tuning``."""
    model, _, form_of_suite = part.partition("-")
    seeds = list(TUNING_SEEDS)[: len(TABLE_SEEDS)] if form_of_suite == _TUNING else list(TABLE_SEEDS)
    seeds = seeds[:1] if form_of_suite == _FIRST else seeds
    loaded = [tasks.load(name, data, prepared) for name in MODELS[model]]
    cases = [task.case(family, seed, prepared) for task in loaded for family in families(task.kind) for seed in seeds]
    # One held-out part for each setting: there are many cases.
    whole = Yardstick("float back-propagation", GRIDS[model], parts=3, folds=1)
    yardsticks = (
        whole,
        replace(whole, name="the same, prepared", start=PREPARED),
        replace(whole, name="the same in our RAM", limited=True),
    )
    return Suite(f"fresh-{part}", tuple(cases), METHODS, yardsticks)
