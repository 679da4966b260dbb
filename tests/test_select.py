# SPDX-License-Identifier: Apache-2.0
"""Which layers to train: gradients by forward passes, the choice within a budget, the command."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from hypothesis import given
from hypothesis import strategies as st
from trainers import SimTrainer

from tflm_zo import ZoError, patch
from tflm_zo.board.memory_plan import plan_memory
from tflm_zo.ops.options import CONVOLUTION, DEPTHWISE, LayerShape
from tflm_zo.tuning.gradients import GradientProbe, filter_gradient
from tflm_zo.tuning.layer_selection import CHOSEN, NO_GAIN, NOT_NEEDED, TOO_LARGE, Selection, select_layers

TFLM_ZO = [sys.executable, "-m", "tflm_zo.cli"]
X, Y = small_models.separable_samples(90, seed=1)
SEARCH: dict[str, Any] = {"passes": 2000, "seed": 3, "verbose": False}


@pytest.fixture(scope="module")
def found(small: bytes) -> Selection:
    return select_layers(small, -X, Y, **SEARCH)


# -- gradients ---------------------------------------------------------------------------------------------


def convolution(shape: LayerShape, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The layer's definition, element by element."""
    y = np.zeros((len(x), shape.output_height, shape.output_width, shape.output_channels))
    for p, q, o, i, j in np.ndindex(*y.shape[1:], shape.filter_height, shape.filter_width):
        row = p * shape.stride_height + i * shape.dilation_height - shape.pad_top
        column = q * shape.stride_width + j * shape.dilation_width - shape.pad_left
        if 0 <= row < shape.input_height and 0 <= column < shape.input_width:
            if shape.kind == DEPTHWISE:
                y[:, p, q, o] += x[:, row, column, o // shape.depth_multiplier] * w[i, j, o]
            else:
                y[:, p, q, o] += x[:, row, column] @ w[o, i, j]
    return y


@given(data=st.data())
def test_the_filter_gradient_is_the_adjoint_of_the_layer(data: st.DataObject) -> None:
    """sum(dL/dy * layer(x, w)) = sum(dL/dW * w) for every w, whatever strides, paddings and dilations."""

    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    kind = data.draw(st.sampled_from([CONVOLUTION, DEPTHWISE]))
    channels, multiplier = draw(1, 3), draw(1, 2)
    outputs = channels * multiplier if kind == DEPTHWISE else draw(1, 3)
    sides = []
    for _ in range(2):
        size, taps, stride, dilation, pad = draw(1, 6), draw(1, 3), draw(1, 3), draw(1, 2), draw(0, 2)
        after = draw(0, 2)
        reach = (taps - 1) * dilation + 1
        out = (max(size + pad + after - reach, 0)) // stride + 1
        sides.append((size, out, taps, stride, dilation, pad))
    (ih, oh, fh, sh, dh, ph), (iw, ow, fw, sw, dw, pw) = sides
    shape = LayerShape(kind, ih, iw, channels, oh, ow, outputs, fh, fw, sh, sw, dh, dw, ph, pw, multiplier)
    rng = np.random.default_rng(draw(0, 99))
    x, slopes = rng.normal(size=(2, ih, iw, channels)), rng.normal(size=(2, oh, ow, outputs))
    w = rng.normal(size=(fh, fw, outputs) if kind == DEPTHWISE else (outputs, fh, fw, channels))
    gradient = filter_gradient(shape, x, slopes)
    assert gradient.shape == w.shape
    assert np.sum(gradient * w) == pytest.approx(np.sum(slopes * convolution(shape, x, w)), abs=1e-9)


MODELS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "regression": {"end": ""},
    "per tensor": {"per_channel": False, "seed": 2},
    "one sigmoid": {"end": "logistic", "outputs": 1},
}


# With the layers whose gradient has a closed form. A sequence model has more operators than layers, as some only
# compute a shape; a mean with finer steps than its input shows what a coarse one would hide.
PROBES = [(kind, layer) for kind in MODELS for layer in ("dense", "spread")]
PROBES += [("mean", "dense"), ("mean", "probe"), ("sequence", "dense")]


def probe_of(kind: str) -> GradientProbe:
    if kind == "mean":
        return GradientProbe(small_models.mean_model(finer=1.5), X, Y)
    if kind == "sequence":
        x = np.random.default_rng(5).uniform(-1, 1, (len(Y), 12, 4)).astype(np.float32)
        return GradientProbe(small_models.sequence_model(), x, Y)
    forms = {"regression": np.eye(3, dtype=np.float32)[Y], "one sigmoid": Y % 2}
    y = forms.get(kind, Y)
    return GradientProbe(small_models.small_model(**MODELS[kind]), X, y)


@pytest.mark.parametrize(("kind", "layer"), PROBES)
def test_the_closed_form_is_the_slope_of_the_loss(kind: str, layer: str) -> None:
    """A small step along the gradient, in the int8 model itself, changes the loss by what the gradient says."""
    probe = probe_of(kind)
    gradient = probe.closed_form(layer)
    chosen = probe._by_name[layer]
    weights = probe._sim.constant(chosen.weights)
    scales = chosen.weight_scales * np.ones(chosen.outputs)
    scales = scales if layer == "spread" else scales.reshape(-1, *[1] * (weights.ndim - 1))
    clean, losses = weights.copy(), []
    steps = np.rint(4 * gradient / np.abs(gradient).max()).reshape(clean.shape)
    steps[np.abs(clean.astype(int)) > 123] = 0
    for sign in (1, -1):
        weights[...] = clean + (sign * steps).astype(np.int8)
        losses.append(probe._losses(probe._logits(probe._sim.layer_of(chosen.output))).mean())
    expected = 2 * np.sum(gradient.reshape(clean.shape) * steps * scales)
    assert losses[0] - losses[1] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("kind", "layer"), PROBES)
def test_estimates_agree_with_the_closed_form(kind: str, layer: str) -> None:
    """Averaged over many directions, to within its own standard error; and the weights are as they were."""
    probe = probe_of(kind)
    chosen = probe._by_name[layer]
    before = probe._sim.constant(chosen.weights).copy()
    exact = np.linalg.norm(probe.closed_form(layer))
    rng = np.random.default_rng(0)
    squares = np.concatenate([probe._squares(chosen, rng) for _ in range(40)])
    error = squares.std() / np.sqrt(len(squares))
    assert error < 0.1 * squares.mean()
    assert abs(squares.mean() - exact**2) < 3 * error + 0.05 * exact**2
    np.testing.assert_array_equal(probe._sim.constant(chosen.weights), before)


def test_the_standard_error_is_the_spread_of_the_estimate() -> None:
    """Over seeds: norms scatter about as much as their errors say."""
    probe = probe_of("softmax")
    estimates = [probe.relative_gradient("stem", seed) for seed in range(30)]
    scatter = np.std([estimate.value for estimate in estimates])
    assert 0.6 < scatter / np.mean([estimate.error for estimate in estimates]) < 1.7
    assert {estimate.passes for estimate in estimates} == {2 * 16 * 90}
    exact = probe.relative_gradient("dense", 0)
    assert exact.error == 0 and exact.passes == 90 and exact == probe.relative_gradient("dense", 1)


# -- the choice --------------------------------------------------------------------------------------------


def test_what_brings_a_gain_is_chosen(small: bytes, found: Selection) -> None:
    rows = {row.name: row for row in found.layers}
    assert set(rows) == {"stem", "spread", "dense", "adapter"}
    assert rows["dense"].verdict == CHOSEN and rows["dense"].method == "exact"
    assert (found.trainable, found.adapter) == ("exact", True)
    assert rows["dense"].gain is not None and rows["dense"].gain > 5 * (rows["dense"].gain_error or 0)
    trained = {row.name for row in found.layers if row.verdict == CHOSEN}
    assert found.adapter == ("adapter" in trained)
    for row in found.layers:
        assert row.verdict in (CHOSEN, NO_GAIN, NOT_NEEDED)
        assert row.ram > 0 and row.passes is not None and 0 < row.passes <= 2000
        assert row.gradient is None if row.name == "adapter" else row.gradient is not None
    per_byte = [row.gain_per_kilobyte for row in found.layers]
    assert per_byte == sorted(per_byte, key=lambda value: -(value or 0))
    assert found.default is not None
    assert found.chosen.loss < found.default.loss < found.untrained.loss
    assert (found.chosen.accuracy or 0) > (found.untrained.accuracy or 0) + 0.2
    plan = plan_memory(patch(small, found.trainable, adapter=found.adapter))
    assert (found.ram, found.flash) == (plan.ram_used, plan.flash_used)


def test_neither_processes_nor_patching_change_the_choice(small: bytes, found: Selection) -> None:
    """Scores are compared by value: dataclasses of arrays have no equality."""
    for other in (
        select_layers(small, -X, Y, jobs=2, **SEARCH),
        select_layers(patch(small, "head"), -X, Y, **SEARCH),
    ):
        assert other.layers == found.layers and other.trainable == found.trainable
        np.testing.assert_array_equal(other.chosen.losses, found.chosen.losses)


def test_the_budget_is_kept(small: bytes, found: Selection) -> None:
    """With less RAM than the best set takes, a smaller one; with less than any takes, an error."""
    head = plan_memory(patch(small, "head"))
    tight = select_layers(small, -X, Y, ram=head.ram_used, **SEARCH)
    assert (tight.trainable, tight.adapter) == ("head", False) and tight.ram <= head.ram_used < found.ram
    assert {row.verdict for row in tight.layers if row.name != "dense"} <= {TOO_LARGE, NO_GAIN}
    assert any(row.verdict == TOO_LARGE and row.gain is None for row in tight.layers)
    for limit in ({"ram": 30_000}, {"flash": 100_000}):
        with pytest.raises(ZoError, match="nothing fits: a single layer takes"):
            select_layers(small, -X, Y, **SEARCH | limit)


def noisy_samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Patterns in so much noise that no model is always right."""
    x, y = small_models.separable_samples(count, seed=seed)
    return (x + np.random.default_rng(seed).normal(0, 1.5, x.shape)).astype(np.float32), y


def test_where_nothing_is_gained_nothing_is_trained(small: bytes, tmp_path: Path) -> None:
    """A model that has learned from many samples has nothing to learn from a few more of the same."""
    trainer = SimTrainer(patch(small, "exact"))
    trainer.fit(*noisy_samples(1000, 5), passes=40_000, epochs=100, verbose=False)
    (tmp_path / "model.tflite").write_bytes(trainer.bake())
    x, y = noisy_samples(90, 9)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    words = ["--data", "data.npz", "--passes", "300", "--seed", "3", "--jobs", "1", "--quiet", "--json"]
    done = run(tmp_path, "select", "model.tflite", *words)
    assert done.returncode == 0, done.stderr
    assert "no training lowers the loss" in done.stdout and "next:" not in done.stdout
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["trainable"] == "" and {row["verdict"] for row in result["layers"]} == {NO_GAIN}
    assert result["scores"]["chosen"] == result["scores"]["untrained"]


def test_a_model_without_head_or_classes(small: bytes) -> None:
    """An activation after the last layer: no closed form, all by node perturbation or the adapter."""
    model = small_models.dense_model("relu", features=8, outputs=4)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (40, 8)).astype(np.float32)
    y = np.repeat(rng.uniform(0, 0.3, (1, 4)), 40, axis=0).astype(np.float32)
    found = select_layers(model, x, y, **SEARCH)
    assert found.default is None and found.chosen.accuracy is None
    assert {row.name: row.method for row in found.layers} == {"dense": "nodes", "adapter": "weights"}
    assert found.chosen.loss <= found.untrained.loss


def test_a_model_with_an_adapter_is_refused(small: bytes) -> None:
    with pytest.raises(ZoError, match="give the model that it was patched from"):
        select_layers(patch(small, "head", adapter=True), X, Y, **SEARCH)


def test_a_model_that_cannot_be_simulated_is_refused_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    model = small_models.small_model("log-softmax")
    with pytest.raises(ZoError, match=r"does not run LOG_SOFTMAX \(operator 5, 'logarithms'\)"):
        select_layers(model, X, np.eye(3, dtype=np.float32)[Y], **(SEARCH | {"verbose": True}))
    assert capsys.readouterr() == ("", "")


# -- the command -------------------------------------------------------------------------------------------


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TFLM_ZO, *words], cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_printed_command_patches_the_chosen_layers(small: bytes, found: Selection, tmp_path: Path) -> None:
    (tmp_path / "my model.tflite").write_bytes(small)
    np.savez(tmp_path / "data.npz", x=-X, y=Y)
    words = ["--data", "data.npz", "--ram", "256K", "--flash", "1M", "--passes", "2000", "--seed", "3", "--jobs", "2"]
    done = run(tmp_path, "select", "my model.tflite", *words, "--json")
    assert done.returncode == 0, done.stderr
    assert "training of each layer" in done.stderr  # the progress bar
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["trainable"] == found.trainable and result["ram_bytes"] == [found.ram, 256 * 1024]
    assert result["flash_bytes"][1] == 1024 * 1024
    assert result["scores"]["chosen"]["loss"] == pytest.approx(found.chosen.loss)
    assert [row["verdict"] for row in result["layers"]] == [row.verdict for row in found.layers]
    for row in found.layers:
        assert f"{row.name} " in done.stdout
    assert f"next: {result['command']}" in done.stdout
    program, *arguments = shlex.split(result["command"])
    assert program == "tflm-zo"
    done = run(tmp_path, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model_zo.tflite").read_bytes() == patch(small, found.trainable, adapter=found.adapter)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ram", "lots"], "'lots' is not a size such as 65536, 256K or 1M"),
        (["--ram", "20K"], "nothing fits"),
        (["--passes", "0"], "passes is 0"),
        (["--folds", "91"], "folds is 91"),
        (["--jobs", "0"], "jobs is 0"),
    ],
    ids=str,
)
def test_wrong_input_is_said_clearly(small: bytes, tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "model.tflite").write_bytes(small)
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    done = run(tmp_path, "select", "model.tflite", "--data", "data.npz", "--quiet", *words)
    assert done.returncode != 0 and message in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr
