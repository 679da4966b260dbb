# SPDX-License-Identifier: Apache-2.0
"""Training in TFLM's C++ interpreter: on this machine, and on a Cortex-M4F in QEMU with the memory of a small board.

Runs where TFLM_ROOT names TFLM's headers and libraries (tests/tflm_program.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import tflm_program
from tflm_program import RECENT, Outcome, train
from training_stream import RecordingTrainer

from tflm_zo.board.memory import board_trees
from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model
from tflm_zo.patching.frozen_prefix import split
from tflm_zo.patching.patch import patch
from tflm_zo.tflm.arena import plan_arena
from tflm_zo.tflm.layouts import ARDUINO_32, TFLM_32, Layout

pytestmark = pytest.mark.skipif(not os.environ.get("TFLM_ROOT"), reason="TFLM_ROOT is not set: no TFLM to link")

# Folder of TFLM_ROOT/lib, and whether it is for Arm.
VARIANTS = [("x86_64", False), ("cortex-m4f", True), ("cortex-m4f-cmsis-nn", True)]


def build(variant: str, arm: bool, model: bytes, folder: Path) -> Path:
    lacking = tflm_program.missing(variant, arm)
    if lacking is not None:
        pytest.skip(lacking)
    return tflm_program.build(variant, arm, model, folder)


@dataclass(frozen=True)
class Reference:
    """A run of the Python Trainer in the wheel's TFLM."""

    model: bytes
    stream: bytes
    weights: bytes
    right: list[int]
    steps: int
    passes: int


def record(
    model: bytes, x: np.ndarray, y: np.ndarray, test: tuple[np.ndarray, np.ndarray], **hyperparameters: Any
) -> Reference:
    trainer = RecordingTrainer(model, seed=7)
    before = trainer.trained_bytes()
    right = [round(trainer.evaluate(*test)["accuracy"] * len(test[0]))]
    trainer.fit(x, y, verbose=False, **hyperparameters)
    right.append(round(trainer.evaluate(*test)["accuracy"] * len(test[0])))
    after = trainer.trained_bytes()
    # Otherwise equal weights would prove nothing.
    assert np.mean(np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)) > 0.05
    return Reference(model, trainer.stream(), after, right, trainer.progress.step, trainer.progress.passes)


@pytest.fixture(scope="module", params=["nodes", "weights", "accumulate", "masks", "convolution as head"])
def small_run(request: pytest.FixtureRequest) -> Reference:
    """200 steps of everything that the ops can do, on a small model."""
    rng = np.random.default_rng(2)
    model = small_models.small_model()
    if request.param == "convolution as head":
        model = small_models.head_model("map", behind=["reshape"])
    model = patch(model, "all", adapter=True, accumulate=request.param == "accumulate")
    y = rng.integers(0, 3, 100)
    x = np.clip(rng.integers(-40, 40, (100, 8, 8, 1)) + 40 * y[:, None, None, None] - 40, -128, 127)
    x = x.astype(np.int8)
    method = "weights" if request.param == "weights" else "auto"
    masks = {"keep": 0.5, "lr_schedule": "step"} if request.param == "masks" else {}
    settings = {"method": method, "epochs": 8, "batch_size": 4, "queries": 2, "node_lr": 1e-3}
    return record(model, x, y, (x[:50], y[:50]), **settings, **masks)


@pytest.fixture(scope="module")
def keyword_run(shared_data: Path) -> Reference:
    """200 steps on keyword spotting with the drift "gain": head, last convolution and input adapter."""
    original = (shared_data / "mlperf_tiny/kws_ref_model.tflite").read_bytes()
    model = patch(original, "exact", adapter=True)
    with np.load(shared_data / "kws01_dev.npz") as archive:
        x = np.clip(archive["x"].astype(np.int16) + 15, -128, 127).astype(np.int8)
        y = archive["y"]
    return record(model, x[:400], y[:400], (x[400:500], y[400:500]), epochs=1, batch_size=2)


@pytest.fixture(scope="module")
def recalibrated_run() -> Reference:
    """Recalibration, 200 steps, and once more."""
    x, y = small_models.separable_samples(100, 1)
    model = patch(small_models.small_model(), "all", adapter=True, reference=x)
    trainer = RecordingTrainer(model, seed=7)
    drifted = 0.6 * x + 0.3
    trainer.recalibrate(drifted[:50])
    right = [round(trainer.evaluate(drifted, y)["accuracy"] * 100)]
    trainer.fit(drifted, y, verbose=False, epochs=4, batch_size=2)
    trainer.recalibrate(drifted)
    right.append(round(trainer.evaluate(drifted, y)["accuracy"] * 100))
    return Reference(
        model, trainer.stream(), trainer.trained_bytes(), right, trainer.progress.step, trainer.progress.passes
    )


# What is trained behind two residual blocks' frozen layers, how, and whether these run in every pass.
LATE = {
    # What they make of a sample is smaller than it: it is kept instead, whatever the passes.
    "head": ("dense", "exact", False),
    "hidden": ("hidden", "weights", False),
    # Else they run when another sample's turn comes: here once a step, for all its queries and its update.
    "nodes": ("a2,b2", "nodes", False),
    "within a block": ("b2,dense", "nodes", False),
    # Here for each pass, since a direction goes through the whole batch.
    "weights": ("a2,b2", "weights", True),
}


def late_run(kind: str) -> tuple[Reference, int]:
    """Training of late layers of a small model, and how often the frozen ones should run in it."""
    trainable, method, every_pass = LATE[kind]
    rng = np.random.default_rng(2)
    model = patch(small_models.residual_model(hidden=8), trainable)
    y = rng.integers(0, 3, 100)
    x = np.clip(rng.integers(-40, 40, (100, 8, 8, 1)) + 40 * y[:, None, None, None] - 40, -128, 127).astype(np.int8)
    settings = {"method": method, "epochs": 8, "batch_size": 4, "queries": 2, "node_lr": 1e-2, "lr": 1e-2}
    reference = record(model, x, y, (x[:50], y[:50]), **settings)
    # A pass at an epoch's end only applies an update, on whatever sample.
    return reference, 2 * 50 + (reference.passes - 8 if every_pass else 8 * 100)


@pytest.fixture(scope="module")
def late_keyword_run(shared_data: Path) -> Reference:
    """200 steps of keyword spotting's head, exact, and last convolution, by its output."""
    model = patch((shared_data / "mlperf_tiny/kws_ref_model.tflite").read_bytes(), "exact")
    with np.load(shared_data / "kws01_dev.npz") as archive:
        x = np.clip(archive["x"].astype(np.int16) + 15, -128, 127).astype(np.int8)
        y = archive["y"]
    settings = {"epochs": 1, "batch_size": 1, "queries": 2, "method": {"conv2d_4": "nodes"}}
    return record(model, x[:200], y[:200], (x[400:440], y[400:440]), **settings)


def check(reference: Reference, outcome: Outcome) -> None:
    assert reference.steps == 200
    assert outcome.weights == reference.weights
    assert outcome.right == reference.right


@pytest.mark.parametrize(("variant", "arm"), VARIANTS[:2])
def test_small_model_trains_to_the_same_bits(small_run: Reference, variant: str, arm: bool, tmp_path: Path) -> None:
    check(small_run, train(build(variant, arm, small_run.model, tmp_path), arm, small_run.stream))


@pytest.mark.parametrize(("variant", "arm"), VARIANTS[:2])
def test_recalibrates_to_the_same_bits(recalibrated_run: Reference, variant: str, arm: bool, tmp_path: Path) -> None:
    check(recalibrated_run, train(build(variant, arm, recalibrated_run.model, tmp_path), arm, recalibrated_run.stream))


@pytest.mark.parametrize(
    ("kind", "variant", "arm"),
    [*((kind, *VARIANTS[0]) for kind in LATE), ("within a block", *VARIANTS[1])],
)
def test_frozen_layers_run_apart(kind: str, variant: str, arm: bool, tmp_path: Path) -> None:
    """Two models in one arena: the bits of the whole model, and the frozen layers run as seldom as they can."""
    reference, runs = late_run(kind)
    outcome = train(build(variant, arm, reference.model, tmp_path), arm, reference.stream)
    check(reference, outcome)
    assert outcome.frozen_runs == runs


def planned(variant: str) -> tuple[Layout, bool]:
    """How the plan lays out the arena of a variant, and whether its kernels are CMSIS-NN's."""
    return (TFLM_32, "cmsis" in variant) if RECENT else (ARDUINO_32, True)


@pytest.mark.parametrize(("variant", "arm"), VARIANTS)
def test_late_layers_of_keyword_spotting(late_keyword_run: Reference, variant: str, arm: bool, tmp_path: Path) -> None:
    outcome = train(build(variant, arm, late_keyword_run.model, tmp_path), arm, late_keyword_run.stream)
    check(late_keyword_run, outcome)
    assert outcome.frozen_runs == 200 + 2 * 40
    if arm:
        parts = split(late_keyword_run.model)
        layout, cmsis_nn = planned(variant)
        plan = plan_arena(board_trees(late_keyword_run.model, parts), layout, cmsis_nn=cmsis_nn)
        assert abs(plan.used - outcome.arena_used) <= 0.03 * outcome.arena_used


@pytest.mark.parametrize(("variant", "arm"), VARIANTS)
def test_keyword_spotting_trains_to_the_same_bits(
    keyword_run: Reference, variant: str, arm: bool, tmp_path: Path
) -> None:
    """CMSIS-NN's kernels are meant to compute what the reference kernels do; here they do, to the bit."""
    outcome = train(build(variant, arm, keyword_run.model, tmp_path), arm, keyword_run.stream)
    check(keyword_run, outcome)
    assert outcome.right[1] > outcome.right[0]
    if arm:
        layout, cmsis_nn = planned(variant)
        plan = plan_arena([load_model(keyword_run.model)], layout, cmsis_nn=cmsis_nn)
        assert abs(plan.used - outcome.arena_used) <= 0.03 * outcome.arena_used


def test_damaged_stream_is_refused(small_run: Reference, tmp_path: Path) -> None:
    program = build("x86_64", False, small_run.model, tmp_path)
    with pytest.raises(ZoError, match="the stream ends too early"):
        train(program, False, small_run.stream[:-100])
    with pytest.raises(ZoError, match="not a training stream"):
        train(program, False, b"ZOSX" + small_run.stream[4:])
