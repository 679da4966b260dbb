# SPDX-License-Identifier: Apache-2.0
"""Filters in front: what they compute, to the bit in TFLM and simulator, and that the samples choose a useful one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small_models
from click.testing import CliRunner

from tflm_zo import Trainer, ZoError, patch, realign
from tflm_zo.cli.main import main
from tflm_zo.conversion.evaluate import evaluate_plain
from tflm_zo.model.file import load_model, save_model
from tflm_zo.realignment.filters import FILTERS, add_filter
from tflm_zo.simulator.model import SimModel
from tflm_zo.tflm.evaluate import predict_plain
from tflm_zo.training.folds import into_folds, join, score_fold
from tflm_zo.tuning.filter_choice import choose_filter

RNG = np.random.default_rng(3)
CODES = RNG.integers(-128, 128, (60, *small_models.INPUT_SHAPE)).astype(np.int8)
NOISY = np.clip(CODES.astype(int) + np.rint(RNG.normal(0, 30, CODES.shape)).astype(int), -128, 127).astype(np.int8)
LABELS = np.arange(60) % 3
SMALL = [name for name, kernel in FILTERS.items() if len(kernel) <= min(small_models.INPUT_SHAPE[:2])]


def filtered(model: bytes, name: str, x: np.ndarray, border: int) -> np.ndarray:
    """What the first layer sees."""
    tree = load_model(model)
    add_filter(tree, name, border)
    sim = SimModel(save_model(tree))
    result = sim.layers[2].output
    return sim.run_layers(0, 3, {sim.inputs[0]: x}, [result]).tensors[result]


def by_hand(x: np.ndarray, kernel: np.ndarray, border: int) -> np.ndarray:
    """The same in floating point, unrounded, clipped."""
    half, size = len(kernel) // 2, len(kernel)
    edges = ((0, 0), (half, half), (half, half), (0, 0))
    padded = np.pad(x.astype(float), edges, constant_values=border)
    rows, columns = x.shape[1:3]
    total = sum(kernel[i, j] * padded[:, i : i + rows, j : j + columns] for i in range(size) for j in range(size))
    return np.clip(total, -128, 127)


@pytest.mark.parametrize("border", [-128, 0, 40])
@pytest.mark.parametrize("name", SMALL)
def test_it_computes_the_kernel(small: bytes, name: str, border: int) -> None:
    difference = filtered(small, name, CODES, border) - by_hand(CODES, FILTERS[name], border)
    # Half a code, and as TFLM rounds twice a sixteenth more; the largest kernel has rounded weights too.
    assert np.abs(difference).max() <= (0.5625 if len(FILTERS[name]) < 9 else 2.0)


@pytest.mark.parametrize("name", SMALL)
def test_even_areas_stay_as_they_are(small: bytes, name: str) -> None:
    for code in (-128, -3, 0, 77, 127):
        even = np.full((1, *small_models.INPUT_SHAPE), code, np.int8)
        np.testing.assert_array_equal(filtered(small, name, even, code), even)


@pytest.mark.parametrize("name", SMALL)
def test_tflm_agrees_and_trains(small: bytes, name: str) -> None:
    model = realign(small, CODES, NOISY, name)
    outputs = predict_plain(model, NOISY).reshape(len(NOISY), -1)
    np.testing.assert_array_equal(outputs, SimModel(model).run(NOISY).reshape(len(NOISY), -1))
    assert np.any(outputs != predict_plain(realign(small, CODES, NOISY), NOISY).reshape(len(NOISY), -1))
    trainer = Trainer(patch(model, "exact", adapter=True))
    trainer.fit(NOISY, LABELS, epochs=1, verbose=False)
    np.testing.assert_array_equal(predict_plain(trainer.bake(), NOISY), trainer.predict_codes(NOISY))


def test_losses_are_held_out(small: bytes) -> None:
    losses = choose_filter(small, CODES, NOISY, LABELS)
    assert set(losses) == {"none", *SMALL}
    assert list(losses.values()) == sorted(losses.values())
    samples = into_folds(NOISY, LABELS, 2, 0)
    for name, loss in losses.items():
        model = patch(realign(small, CODES, NOISY, name))
        assert join([score_fold(model, samples, fold, 0, 120, {}) for fold in (0, 1)]).loss == loss


def test_what_has_no_filter_is_refused(small: bytes) -> None:
    dense = small_models.dense_model()
    with pytest.raises(ZoError, match="filter smooth3 is for images"):
        add_filter(load_model(dense), "smooth3", 0)
    with pytest.raises(ZoError, match="realigned with a filter"):
        realign(realign(small, CODES, NOISY, "smooth3"), CODES, NOISY)


def test_command(small: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(small)
    np.savez(tmp_path / "before.npz", x=CODES)
    np.savez(tmp_path / "after.npz", x=NOISY, y=LABELS)
    arguments = ["realign", "model.tflite", "--reference", "before.npz", "--data", "after.npz", "-o", "out.tflite"]
    arguments = [str(tmp_path / a) if "." in a else a for a in arguments]
    found = CliRunner().invoke(main, [*arguments, "--filter", "auto", "--json"], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    result = json.loads(found.output.splitlines()[-1])
    losses = choose_filter(small, CODES, NOISY, LABELS)
    assert result["filter"] == next(iter(losses))
    assert (tmp_path / "out.tflite").read_bytes() == realign(small, CODES, NOISY, result["filter"])
    np.savez(tmp_path / "after.npz", x=NOISY)
    refused = CliRunner().invoke(main, [*arguments, "--filter", "auto"])
    assert refused.exit_code == 1 and "no array y" in refused.output


@pytest.mark.slow
def test_noisy_images_choose_smoothing_and_gain_by_it(shared_data: Path) -> None:
    samples = np.load(shared_data / "cifar10_jpeg_dev.npz")
    model = (shared_data / "mlperf_tiny" / "pretrainedResnet_quant.tflite").read_bytes()
    codes = (samples["x"][:900].astype(np.int16) - 128).astype(np.int8)
    noise = np.random.default_rng(1).normal(0, 45, codes.shape)
    noisy = np.clip(np.rint(codes + noise), -128, 127).astype(np.int8)
    y = samples["y"][:900].astype(np.int32)
    losses = choose_filter(model, codes[:400], noisy[:400], y[:400])
    best = next(iter(losses))
    assert best.startswith("smooth")
    plain, smooth = (
        evaluate_plain(realign(model, codes[:400], noisy[:400], name), noisy[400:], y[400:])["accuracy"]
        for name in ("none", best)
    )
    assert smooth > plain + 0.05
