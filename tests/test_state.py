# SPDX-License-Identifier: Apache-2.0
"""What models carry from pass to pass: outputs do not depend on the samples before, unless that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from click.testing import CliRunner
from test_monitor import Board, connect
from trainers import SimTrainer, TflmTrainer

import tflm_zo
from tflm_zo.cli.main import main
from tflm_zo.conversion.evaluate import evaluate_plain, predict_codes
from tflm_zo.model.file import load_model
from tflm_zo.model.labels import plain_ends
from tflm_zo.model.state import read_state
from tflm_zo.simulator.model import SimModel
from tflm_zo.tflm import wheel

pytestmark = pytest.mark.skipif(not wheel.available(), reason="TFLM's wheel is needed")

STRANGERS = ("tflm_mnist_lstm", "coral_lstm_mnist")
MODELS = ("zero point 0", "zero point 7", *STRANGERS)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> bytes:
    """Models with a state."""
    if request.param.startswith("zero point"):
        return small_models.recurrent_model(state_zero_point=int(request.param.split()[-1]))
    return _stranger(request, request.param)


def _stranger(request: pytest.FixtureRequest, name: str) -> bytes:
    folder: Path = request.getfixturevalue("shared_data")
    path = folder / "strangers" / f"{name}.tflite"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path.read_bytes()


def _samples(model: bytes, count: int = 24) -> tuple[np.ndarray, np.ndarray]:
    graph = load_model(model).subgraphs[0]
    shape = tuple(graph.tensors[graph.inputs[0]].shape)[1:]
    classes = int(graph.tensors[graph.outputs[0]].shape[-1])
    rng = np.random.default_rng(1)
    x = rng.integers(-128, 128, (count, *shape)).astype(np.int8)
    return x, rng.integers(0, classes, count)


def test_two_predictions_of_one_sample_are_equal_unless_the_state_is_kept(model: bytes) -> None:
    x, _ = _samples(model)
    twice = np.repeat(x, 2, axis=0)
    found = predict_codes(model, twice)
    np.testing.assert_array_equal(found[::2], found[1::2])
    kept = predict_codes(model, twice, keep_state=True)
    np.testing.assert_array_equal(kept[0], found[0])
    assert np.any(kept[::2] != kept[1::2])


def test_training_and_baking_keep_their_promises(model: bytes) -> None:
    """Untrained, the patched model is the original; all passes begin alike; the baked model is the trained one."""
    x, y = _samples(model)
    trainer = tflm_zo.Trainer(tflm_zo.patch(model, "all"), engine="tflm")
    np.testing.assert_array_equal(trainer.predict_codes(x), predict_codes(model, x))
    one = trainer.engine.evaluate(trainer._labelled(x[:1], y[:1])).losses
    for _ in range(2):
        np.testing.assert_array_equal(trainer.engine.evaluate(trainer._labelled(x[:1], y[:1])).losses, one)
    trainer.fit(x, y, epochs=4, holdout=0.0, verbose=False)
    baked = trainer.bake()
    assert baked != model
    np.testing.assert_array_equal(predict_codes(baked, x), trainer.predict_codes(x))
    assert evaluate_plain(baked, x, y)["accuracy"] == trainer.evaluate(x, y)["accuracy"]


@pytest.mark.parametrize("name", STRANGERS)
def test_the_simulator_clears_as_tflm_does(name: str, request: pytest.FixtureRequest) -> None:
    model = _stranger(request, name)
    x, y = _samples(model)
    patched = tflm_zo.patch(model)
    trainers = [SimTrainer(patched), TflmTrainer(patched)]
    for trainer in trainers:
        np.testing.assert_array_equal(trainer.predict_codes(x), predict_codes(model, x))
        trainer.fit(x, y, epochs=3, holdout=0.0, verbose=False)
    assert trainers[0].bake() == trainers[1].bake() != model
    assert trainers[0].evaluate(x, y) == trainers[1].evaluate(x, y)


def test_a_program_that_knows_nothing_of_training_gets_cleared_states_too(model: bytes) -> None:
    """As a sketch does, which sets the input alone."""
    from tflm_zo.tflm.interpreter import Interpreter

    x, _ = _samples(model)
    interpreter = Interpreter(tflm_zo.patch(model))
    outputs = np.concatenate([interpreter.run(sample) for sample in plain_ends(model)[0].codes(x)])
    np.testing.assert_array_equal(outputs, predict_codes(model, x))


def test_the_boards_program_gives_the_same(model: bytes, tmp_path: Path) -> None:
    x, y = _samples(model, 12)
    patched = tflm_zo.patch(model)
    trainer = tflm_zo.Trainer(patched, engine="tflm")
    board = Board(patched, tmp_path / "flash")
    try:
        remote = connect(board.port)
        np.testing.assert_array_equal(remote.predict_codes(x), trainer.predict_codes(x))
        for one in (trainer, remote):
            one.fit(x, y, epochs=2, holdout=0.0, verbose=False)
        np.testing.assert_array_equal(remote.predict_codes(x), trainer.predict_codes(x))
    finally:
        board.stop()


@pytest.mark.parametrize("name", ["esphome_okay_nabu_v2"])
def test_streams_are_measured_but_not_trained(name: str, request: pytest.FixtureRequest) -> None:
    model = _stranger(request, name)
    x, _ = _samples(model)
    twice = np.repeat(x, 2, axis=0)
    found = predict_codes(model, twice)
    np.testing.assert_array_equal(found[::2], found[1::2])
    assert np.any(predict_codes(model, twice, keep_state=True) != found)
    simulated = SimModel(model)
    np.testing.assert_array_equal(simulated.reals(simulated.run(x)), found[::2])
    with pytest.raises(tflm_zo.ZoError, match=r"keeps a stream's state in variables .* takes a whole window"):
        tflm_zo.patch(model)


def test_operators_with_a_state_of_their_own_are_refused_by_name() -> None:
    tree = load_model(small_models.recurrent_model())
    code = next(c for c in tree.operatorCodes if c.builtinCode == small_models.OPERATOR.SVDF)
    code.builtinCode = code.deprecatedBuiltinCode = small_models.OPERATOR.CUSTOM
    code.customCode = "CIRCULAR_BUFFER"
    with pytest.raises(tflm_zo.ZoError, match="CIRCULAR_BUFFER keeps a state of its own"):
        read_state(tree).require_tensors()


def test_commands_say_and_choose_the_rule(tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(small_models.recurrent_model())
    x, y = _samples(model.read_bytes(), 60)
    np.savez(tmp_path / "data.npz", x=x, y=y)

    def run(*arguments: Any) -> str:
        result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "state: of SVDF; reset before each sample" in run("inspect", model)
    run("patch", model, "-o", tmp_path / "zo.tflite")
    assert "state: of SVDF; cleared in each pass" in run("inspect", tmp_path / "zo.tflite")
    reset = run("eval", model, "--data", tmp_path / "data.npz")
    assert reset != run("eval", model, "--data", tmp_path / "data.npz", "--keep-state")
