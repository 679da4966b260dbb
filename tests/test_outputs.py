# SPDX-License-Identifier: Apache-2.0
"""Models with several outputs, or with a class for each cell of a map."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import small_models
from click.testing import CliRunner
from test_monitor import Board, connect
from trainers import SimTrainer, TflmTrainer, values_of

import tflm_zo
from tflm_zo.cli.main import main
from tflm_zo.conversion.evaluate import evaluate_plain, predict_codes
from tflm_zo.model.file import load_model, save_model
from tflm_zo.ops.command import LOSS, make_command
from tflm_zo.ops.layouts import Action
from tflm_zo.tflm import wheel
from tflm_zo.tuning.gradients import GradientProbe

pytestmark = pytest.mark.skipif(not wheel.available(), reason="TFLM's wheel is needed")

CLASSES = 3
FIT: dict[str, Any] = {"epochs": 4, "batch_size": 8, "verbose": False}


def map_samples(count: int, seed: int, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Images of 8 x 8 in squares of 2 x 2 whose brightness says their class; x float32, y (count, 4, 4)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, (count, 4, 4))
    x = (y / (classes - 1) * 1.6 - 0.8).repeat(2, axis=1).repeat(2, axis=2)[..., None]
    return (x + rng.normal(0, 0.1, x.shape)).astype(np.float32), y


# -- maps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["softmax", "logistic"])
@pytest.mark.parametrize("trainable", ["exact", "all"])
def test_a_map_is_trained_to_the_same_bits_everywhere(end: str, trainable: str, tmp_path: Path) -> None:
    classes = CLASSES if end == "softmax" else 2
    model = small_models.map_model(end)
    x, y = map_samples(40, 1, classes)
    patched = tflm_zo.patch(model, trainable)
    trainers = [SimTrainer(patched), TflmTrainer(patched)]
    np.testing.assert_array_equal(trainers[0].predict_codes(x), predict_codes(model, x))
    before = trainers[0].evaluate(x, y)
    board = Board(patched, tmp_path / "flash")
    try:
        trainers.append(connect(board.port))
        for trainer in trainers:
            trainer.fit(x, y, **FIT)
        assert trainers[0].evaluate(x, y) == trainers[1].evaluate(x, y) == trainers[2].evaluate(x, y)
        models = [trainer.bake() for trainer in trainers]
    finally:
        board.stop()
    for name, values in values_of(trainers[0]).items():
        np.testing.assert_array_equal(values, values_of(trainers[1])[name], name)
    assert models[0] == models[1] == models[2] != model
    np.testing.assert_array_equal(predict_codes(models[0], x), trainers[0].predict_codes(x))
    after = trainers[0].evaluate(x, y)
    assert after["loss"] < before["loss"] and after["accuracy"] > before["accuracy"]
    assert evaluate_plain(models[0], x, y)["accuracy"] == after["accuracy"]


def test_the_exact_head_of_a_map_is_the_head_at_each_position() -> None:
    """Loss and update of the reference in NumPy, one position after the other."""
    trainer = TflmTrainer(tflm_zo.patch(small_models.map_model(), "cells"))
    model, engine = trainer.model, trainer.engine
    x, y = map_samples(1, 3)
    loss = model.loss
    assert (loss.positions, loss.outputs, loss.features) == (16, CLASSES, 5)
    features = SimTrainer(model.data).engine._passes.sim.activations(  # type: ignore[attr-defined]
        trainer._labelled(x, y).codes.reshape(1, 8, 8, 1)
    )
    head_input = next(v for v in features.values() if v.shape == (1, 4, 4, 5)).reshape(16, 5)
    before = values_of(trainer)
    head = reference.Head(
        before["cells/weights"].reshape(CLASSES, 5),
        before["cells/bias"],
        loss.feature_zero_point,
        loss.accumulator_scales,
        loss.weight_factors,
    )
    logits = [head.logits(row) for row in head_input]
    losses = [reference.cross_entropy(z, int(t)) for z, t in zip(logits, y.reshape(-1), strict=True)]
    total = np.float32(0)
    for one in losses:
        total = np.float32(total + one)
    samples = trainer._labelled(x, y)
    command = make_command(LOSS | Action.HEAD_UPDATE, head_rate=0.3, head_seed=11)
    report = engine.run(samples.codes[0], samples.targets[0], command)  # type: ignore[attr-defined]
    assert report["loss"] == total / np.float32(16)
    for position, (row, z) in enumerate(zip(head_input, logits, strict=True)):
        gradient = reference.cross_entropy_gradient(z, int(y.reshape(-1)[position])) / np.float32(16)
        head.update(row, gradient, 0.3, 11, position)
    np.testing.assert_array_equal(values_of(trainer)["cells/weights"].reshape(CLASSES, 5), head.weights)
    np.testing.assert_array_equal(values_of(trainer)["cells/bias"], head.bias)


def test_labels_of_a_map_are_indices_or_one_hot_and_all_measures_agree() -> None:
    model = small_models.map_model()
    x, y = map_samples(20, 4)
    trainer = SimTrainer(tflm_zo.patch(model))
    wanted = trainer.evaluate(x, y)
    outputs = predict_codes(model, x).argmax(axis=-1)
    assert wanted["accuracy"] == np.mean(outputs == y)
    hot = np.eye(CLASSES)[y]
    for labels in (y.reshape(20, -1), hot, hot.astype(np.float32), hot.astype(bool), hot.astype(np.int8)):
        assert trainer.evaluate(x, labels) == wanted
        assert evaluate_plain(model, x, labels) == {"accuracy": wanted["accuracy"]}
    for wrong, what in (
        (y[:, :2], "8 values a sample, the map has 16 cells"),
        (hot * 0.5, "values that are no classes"),
        (hot * 2, "values that are no classes"),
        (y + 1, "classes 1 to 3, the map has 0 to 2"),
    ):
        with pytest.raises(tflm_zo.ZoError, match=what):
            trainer.evaluate(x, wrong)


def test_searches_take_maps() -> None:
    x, y = map_samples(16, 5)
    probe = GradientProbe(small_models.map_model(), x, y)
    head = probe.closed_form("cells")
    trainer = SimTrainer(tflm_zo.patch(small_models.map_model()))
    weights = values_of(trainer)["cells/weights"].reshape(head.shape)
    scales = np.asarray(trainer.model.loss.feature_scale / trainer.model.loss.weight_factors)[:, None]
    # The exact gradient is the slope of the loss.
    lower = trainer.bake()
    tree = load_model(lower)
    tensor = next(t for t in tree.subgraphs[0].tensors if t.name == b"cells/Conv2D")
    row, column = np.unravel_index(np.abs(head).argmax(), head.shape)
    losses = []
    for side in (1, -1):
        moved = weights.copy()
        moved[row, column] = np.clip(int(weights[row, column]), -126, 126) + side
        tree.buffers[tensor.buffer].data = moved.reshape(-1).view(np.uint8)
        losses.append(SimTrainer(tflm_zo.patch(save_model(tree))).evaluate(x, y)["loss"])
    slope = (losses[0] - losses[1]) / (2 * float(scales[row, 0]))
    assert slope == pytest.approx(head[row, column], rel=0.05)


def test_losses_that_no_map_has_are_refused() -> None:
    with pytest.raises(tflm_zo.ZoError, match="entropy needs one vector of logits"):
        tflm_zo.patch(small_models.map_model(), loss="entropy")
    assert SimTrainer(tflm_zo.patch(small_models.map_model("none"), "last:1")).model.loss.positions == 1


# -- several outputs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["kind", "1", 1, "probabilities"])
def test_one_of_two_heads_is_trained_and_the_other_stays(output: str | int) -> None:
    model = small_models.two_headed_model()
    x, y = small_models.separable_samples(60, 1)
    patched = tflm_zo.patch(model, "all", output=output)
    trainers = [SimTrainer(patched), TflmTrainer(patched)]
    for trainer in trainers:
        np.testing.assert_array_equal(trainer.predict_codes(x), predict_codes(model, x, output="kind"))
        trainer.fit(x, y, **FIT)
    baked = trainers[0].bake()
    assert baked == trainers[1].bake() != model
    np.testing.assert_array_equal(predict_codes(baked, x, output="kind"), trainers[0].predict_codes(x))
    np.testing.assert_array_equal(predict_codes(baked, x, output="size"), predict_codes(model, x, output="size"))
    assert evaluate_plain(baked, x, y, output=1)["accuracy"] == trainers[1].evaluate(x, y)["accuracy"]
    assert {p.layer for p in trainers[0].model.parameters} == {"first", "dense"}, "the trunk is not of this head alone"


def test_the_patched_model_has_the_other_outputs_too() -> None:
    from tflm_zo.tflm.interpreter import Interpreter

    model = small_models.two_headed_model()
    x = (np.random.default_rng(0).integers(-128, 128, (1, 8, 8, 1))).astype(np.int8)
    plain, patched = Interpreter(model), Interpreter(tflm_zo.patch(model, output="size"))
    np.testing.assert_array_equal(patched.run(x, 0), plain.run(x, 0))
    np.testing.assert_array_equal(patched.run(x, 2), plain.run(x, 1))
    trainer = TflmTrainer(tflm_zo.patch(model, output="kind"))
    assert tflm_zo.bake(trainer.model.data, {}) == save_model(load_model(model))


def test_the_second_head_is_regressed_to_the_bits_of_a_board(tmp_path: Path) -> None:
    model = tflm_zo.patch(small_models.two_headed_model(), output="size")
    x, y = small_models.separable_samples(40, 1)
    targets = np.stack([y * 0.2, -y * 0.1], axis=1).astype(np.float32)
    host = TflmTrainer(model)
    board = Board(model, tmp_path / "flash")
    try:
        remote = connect(board.port)
        for trainer in (host, remote):
            trainer.fit(x, targets, **FIT)
        assert host.bake() == remote.bake()
        np.testing.assert_array_equal(host.predict_codes(x), remote.predict_codes(x))
    finally:
        board.stop()


def test_what_is_not_said_clearly_is_refused_in_one_line() -> None:
    model = small_models.two_headed_model()
    x, y = small_models.separable_samples(10, 1)
    listed = re.escape("0 size [1, 2], 1 kind [1, 3]")
    with pytest.raises(tflm_zo.ZoError, match=f"has 2 outputs; choose one by name or number .*: {listed}"):
        tflm_zo.patch(model)
    with pytest.raises(tflm_zo.ZoError, match="has 2 outputs; choose one"):
        evaluate_plain(model, x, y)
    with pytest.raises(tflm_zo.ZoError, match=f"has no output 'colour'; the outputs are: {listed}"):
        tflm_zo.patch(model, output="colour")
    with pytest.raises(tflm_zo.ZoError, match="'stem' matches no layer"):
        tflm_zo.patch(model, "stem", output="kind")
    tree = load_model(model)
    graph = tree.subgraphs[0]
    graph.inputs = np.array([*graph.inputs, graph.outputs[0]], dtype=np.int32)
    for use in (tflm_zo.patch, lambda m: predict_codes(m, x)):
        with pytest.raises(tflm_zo.ZoError, match=r"has 2 inputs \(input, other/output\), samples have one: give the"):
            use(save_model(tree))


def test_commands_choose_an_output(tmp_path: Path) -> None:
    x, y = small_models.separable_samples(60, 1)
    model, data, zo, run_file, baked = (
        tmp_path / n for n in ("m.tflite", "d.npz", "zo.tflite", "run.ckpt", "b.tflite")
    )
    model.write_bytes(small_models.two_headed_model())
    np.savez(data, x=x, y=y)

    def run(*arguments: Any) -> str:
        result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "outputs: 0 size [1, 2] int8; 1 kind [1, 3] int8" in run("inspect", model)
    run("patch", model, "--output-name", "kind", "-o", zo)
    assert "1 kind [1, 3] int8, trained" in run("inspect", zo)
    run("train", zo, "--data", data, "-o", run_file, "--epochs", "2", "--quiet")
    run("bake", zo, "--checkpoint", run_file, "-o", baked)
    plain = run("eval", baked, "--data", data, "--output-name", "kind")
    assert plain.split()[:2] == run("eval", zo, "--data", data, "--checkpoint", run_file).split(", ")[1].split()[:2]


# -- models of strangers ----------------------------------------------------------------------------------------


def test_fomo_goes_the_whole_way(shared_data: Path) -> None:
    path = shared_data / "strangers" / "ei_fomo_balloon.tflite"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    model = path.read_bytes()
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (16, 96, 96, 3)).astype(np.int8)
    y = rng.integers(0, 3, (16, 12, 12)) * (rng.random((16, 12, 12)) < 0.1)
    patched = tflm_zo.patch(model)
    trainers = [SimTrainer(patched), TflmTrainer(patched)]
    np.testing.assert_array_equal(trainers[0].predict_codes(x[:3]), predict_codes(model, x[:3]))
    before = trainers[0].evaluate(x, y)["loss"]
    for trainer in trainers:
        trainer.fit(x, y, epochs=2, holdout=0.0, verbose=False)
    assert trainers[0].bake() == trainers[1].bake()
    assert trainers[0].evaluate(x, y)["loss"] < before


@pytest.mark.parametrize("name", ["portiloop2_quant", "coral_split_concat"])
def test_several_inputs_are_refused_in_one_line(name: str, shared_data: Path) -> None:
    path = shared_data / "strangers" / f"{name}.tflite"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with pytest.raises(tflm_zo.ZoError, match=r"has \d inputs \(.*\), samples have one: give the model one input"):
        tflm_zo.patch(path.read_bytes())
