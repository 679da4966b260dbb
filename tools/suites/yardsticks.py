# SPDX-License-Identifier: Apache-2.0
"""What back-propagation through all layers makes of the same samples: settings chosen on samples held out, then
trained on all of them with each seed. Test samples are used for the last measurement only."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from suites.cache import Cache, digest
from suites.case import Case
from suites.float_network import Network, Setting
from suites.memory import first_affordable_layer
from suites.starts import behind_front
from suites.suite import Yardstick
from tflm_zo.model.file import load_model, save_model
from tflm_zo.patching.adapter import add_adapter

# Counts up when the network's training changes, so that kept results are not taken for those of the new one.
_VERSION = 2


@dataclass(frozen=True)
class Outcome:
    """Test scores, one a seed, the setting that was chosen, and the scores of all settings on held-out samples."""

    scores: tuple[float, ...]
    setting: str
    held_out: dict[str, float]


def back_propagate(yardstick: Yardstick, case: Case, seeds: int, cache: Cache) -> Outcome:
    """Choose a setting and train; every training is kept in ``cache``."""
    case = behind_front(case, yardstick.start)
    model = with_adapter(case.model) if yardstick.adapter else case.model
    first = first_affordable_layer(model) if yardstick.limited else 0
    everything = np.arange(len(case.x))
    order = np.random.default_rng(0).permutation(len(case.x))
    folds = np.array_split(order, yardstick.parts)[: yardstick.folds]

    def trained(setting: Setting, rows: np.ndarray, x: np.ndarray, y: np.ndarray, seed: int) -> float:
        inputs = (case.x[rows], case.y[rows], x, y)
        form = (case.loss, yardstick.int8, yardstick.adapter, first)
        key = digest(_VERSION, model, *inputs, form, setting, seed)
        about = {"yardstick": yardstick.name, "case": case.name, "setting": str(setting), "seed": seed}
        about |= {"samples": len(rows), "tested on": len(x)}

        def make() -> dict[str, Any]:
            network = _network(model, *form)
            network.train(case.x[rows], case.y[rows], setting, seed)
            return {"score": network.score(x, y)}

        return float(cache.get(key, about, make)["score"])

    held_out = {}
    for setting in yardstick.grid:
        scores = []
        for fold in folds:
            rest = np.setdiff1d(everything, fold)
            scores.append(trained(setting, rest, case.x[fold], case.y[fold], 0))
        held_out[setting] = float(np.mean(scores))
    choose = max if case.higher_is_better else min
    best = choose(held_out, key=lambda setting: held_out[setting])
    final = [trained(best, everything, case.x_test, case.y_test, seed) for seed in range(seeds)]
    return Outcome(tuple(final), str(best), {str(setting): score for setting, score in held_out.items()})


def with_adapter(model: bytes) -> bytes:
    """Return the model behind an identity layer for its input's channels."""
    tree = load_model(model)
    add_adapter(tree)
    return save_model(tree)


@functools.lru_cache(maxsize=4)
def _network(model: bytes, loss: str, int8: bool, adapter: bool, first: int) -> Network:
    return Network(model, loss, int8=int8, adapter=adapter, trained_from=first)
