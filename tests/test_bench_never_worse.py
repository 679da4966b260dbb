# SPDX-License-Identifier: Apache-2.0
"""The benchmark of trainings that make a model worse: what it counts, on which samples it trains, what it prints."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import dense_model, separable_samples
from trainers import SimTrainer

from tflm_zo import patch
from tflm_zo.model.samples import input_codes

sys.path.append(str(Path(__file__).parents[1] / "tools"))

from suites import never_worse
from suites.drifts import TABLE_SEEDS
from suites.never_worse import Result, Training, chosen, markdown, trainings
from suites.strangers import _shares
from suites.task import Task


def task_of(y: np.ndarray, loss: str = "cross-entropy") -> Task:
    x = np.zeros((len(y), 20), dtype=np.int8)
    return Task("task", dense_model(), "vector", x, y, x, y, 0.0, loss)


def outputs_of(classes: np.ndarray) -> np.ndarray:
    return np.eye(5)[classes]


def training(size: int, uneven: bool = False, seed: int = 0) -> Training:
    return Training("task", "", 0, size, uneven, seed, "fit")


def test_classes_are_even_or_nine_to_one() -> None:
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 100)).astype(np.int32)
    task = task_of(y)
    even = np.bincount(y[chosen(task, training(22))], minlength=4)
    assert sorted(even) == [5, 5, 6, 6]
    uneven = np.sort(np.bincount(y[chosen(task, training(100, True))], minlength=4))
    assert uneven.tolist() == [5, 5, 45, 45]
    # Half of the classes have 200 samples: nine of ten of 400 cannot be theirs, but the ratio is kept.
    scarce = np.sort(np.bincount(y[chosen(task, training(400, True))], minlength=4))
    assert scarce.tolist() == [11, 11, 100, 100]
    first, second = (chosen(task, training(50, True, seed)) for seed in (0, 1))
    assert np.array_equal(first, chosen(task, training(50, True, 0))) and not np.array_equal(first, second)
    assert len(np.unique(first)) == len(first)


def test_worse_is_more_than_two_points_and_more_than_chance() -> None:
    y = np.tile(np.arange(5), 60).astype(np.int32)
    task, before = task_of(y), outputs_of(y)

    def after(lost: int) -> Result:
        classes = y.copy()
        classes[:lost] = (classes[:lost] + 1) % 5
        scores = never_worse._compare(before, outputs_of(classes), task)
        return Result(300, *scores)

    # Twelve of 300 are four points; six are two points, which is not more than two.
    assert after(12).worse and after(12).before - after(12).after == pytest.approx(0.04)
    assert after(12).chance == pytest.approx(0.5**12)
    assert not after(6).worse and not after(0).worse
    # As many points, but 30 samples became wrong and 18 right: that happens by chance.
    classes = y.copy()
    classes[:18] = (classes[:18] + 1) % 5
    mixed = y.copy()
    mixed[18:48] = (mixed[18:48] + 1) % 5
    scores = never_worse._compare(outputs_of(classes), outputs_of(mixed), task)
    assert scores[0] - scores[1] == pytest.approx(0.04)
    assert 0.01 < scores[2] < 0.1 and not Result(300, *scores).worse


def test_regressions_count_in_parts_of_the_variance() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(500, 3))
    task = task_of(y, "mse")
    before, after = y + 0.1 * rng.normal(size=y.shape), y + 0.5 * rng.normal(size=y.shape)
    scores = never_worse._compare(before, after, task)
    assert scores[0] == pytest.approx(0.99, abs=0.005) and scores[1] == pytest.approx(0.75, abs=0.05)
    assert Result(500, *scores).worse
    assert not Result(500, *never_worse._compare(after, before, task)).worse
    assert never_worse._compare(before, before, task)[2] == 1.0


def test_trainings_meet_all_families_with_and_without_drift() -> None:
    listed = list(trainings("task", "vector", False, TABLE_SEEDS, never_worse.SIZES, 3, "fit"))
    assert len(set(listed)) == len(listed) == 2 * 2 * 5 * 3
    assert sum(not t.family for t in listed) == len(listed) // 2
    assert {t.drift_seed for t in listed if t.family} == set(TABLE_SEEDS)
    from suites.drifts import families

    assert {t.family for t in listed} - {""} == set(families("vector"))


def test_a_training_is_measured_before_and_after(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: bytes) -> None:
    pytest.importorskip("scipy")
    form = SimTrainer(patch(small, "head")).model
    x, y = separable_samples(200, 1)
    codes = input_codes(x, form.input_shape, form.input_quantization)[:, 0]
    task = Task("task", small, "image", codes[:100], y[:100], codes[100:], y[100:], -128.0)
    monkeypatch.setattr("suites.tasks.load", lambda name, data, folder: task)
    wanted = Training("task", "contrast", 0, 50, False, 0, "fit")
    result = never_worse.run(wanted, tmp_path, tmp_path)
    assert result.samples == 50 and not result.refused
    assert 0 <= result.before <= 1 and result.after > result.before
    kept = list((tmp_path / "never-worse").iterdir())
    assert len(kept) == 1
    assert never_worse.run(wanted, tmp_path, tmp_path) == result
    assert list((tmp_path / "never-worse").iterdir()) == kept


def test_the_table_names_every_training_that_made_a_model_worse() -> None:
    text = markdown(
        {
            training(50): Result(50, 0.9, 0.5, 1e-9),
            training(100): Result(100, 0.9, 0.89, 0.4),
            Training("other", "", 0, 0, False, 0, "fit"): Result(refused="no head"),
        },
        "command",
    )
    assert "| task | 2 | 0.9000 | 0.6950 |  |  | 40.0 points | 1 |" in text
    assert "| task | none | 50 |  | 0 | 0.900 | 0.500 | 1e-09 |" in text
    assert "* other (1): no head" in text


def test_shares_of_made_samples_are_even_and_leave_rare_classes_out() -> None:
    assert _shares(np.array([500, 3, 40, 500]), 300).tolist() == [130, 0, 40, 130]
    assert _shares(np.array([50, 50]), 300).tolist() == [50, 50]


def test_part_of_the_best_that_default_rates_reach() -> None:
    from suites.rate_sweep import Sweep

    assert Sweep(4.0, (4.0, 3.0, 3.0, 2.0, 9.0)).part == 0.5
    assert Sweep(4.0, (4.0, 3.0, 1.0, 2.0, 9.0)).part == 1.0
    assert Sweep(4.0, (4.0, 3.0, 5.0, 2.0, 9.0)).part == -0.5
    assert Sweep(4.0, (5.0, 5.0, 5.0, 5.0, 5.0)).part == 1.0  # training helps with no rate
