# SPDX-License-Identifier: Apache-2.0
"""The contract of all engines: TFLM, the simulator and a board are told the same and do the same, to the bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from test_monitor import Board
from trainers import TflmTrainer, board_trainer

from tflm_zo import Trainer, ZoError, bake, patch
from tflm_zo.patching.patched_model import PatchedModel, read_patched
from tflm_zo.serial.board_engine import BoardEngine
from tflm_zo.serial.device import Device
from tflm_zo.serial.port import SerialPort
from tflm_zo.tflm import wheel
from tflm_zo.tflm.evaluate import predict_plain
from tflm_zo.training import simulator_engine
from tflm_zo.training.engine import Engine, Labelled, StepSettings
from tflm_zo.training.engines import ENGINES, make_engine
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.rates import Rates
from tflm_zo.training.recipe import Recipe, make_recipe
from tflm_zo.training.samples import sample_codes
from tflm_zo.training.simulator_engine import SimulatorEngine
from tflm_zo.training.tflm_engine import TflmEngine
from tflm_zo.training.training_state import Snapshot

pytest.importorskip("serial")

X, Y = small_models.separable_samples(24, 1)
BATCH = 6
HYPER = Hyperparameters(queries=2, batch_size=BATCH, epochs=2)

Make = Callable[[bytes], Engine]


@pytest.fixture(params=["tflm", "simulator", "board"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes engines of one kind."""
    boards: list[Board] = []

    def board(model: bytes) -> Engine:
        boards.append(Board(model, tmp_path / f"flash {len(boards)}"))
        device = Device(SerialPort(boards[-1].port), 20.0)
        return BoardEngine(device, read_patched(device.read_model()))

    yield board if request.param == "board" else lambda model: make_engine(request.param, read_patched(model))
    for one in boards:
        one.stop()


@pytest.fixture(scope="module")
def model(small: bytes) -> bytes:
    """With everything that an engine may have to do with: weights, nodes, an exact head, an adapter."""
    return patch(small, "all", adapter=True, reference=X)


def labelled(model: PatchedModel) -> Labelled:
    return Labelled(*sample_codes(X, Y, model))


def settings_of(recipe: Recipe, batch: int = BATCH, antithetic: bool = True) -> StepSettings:
    return StepSettings(
        seed=3,
        antithetic=antithetic,
        exact=recipe.exact,
        accumulate=False,
        groups=recipe.groups,
        batch=batch,
        passes_a_sample=recipe.passes_a_sample(antithetic),
    )


def values(engine: Engine) -> list[np.ndarray]:
    return engine.read().values


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def ignore(passes: int) -> None:
    pass


def train(engine: Engine, steps: int = 3) -> list[Any]:
    """Some steps with rates that were measured; returns rates and totals."""
    samples = labelled(engine.model)
    recipe = make_recipe(engine.model, HYPER)
    rates = engine.measure(recipe, HYPER, samples, epochs=2, seed=3)
    engine.configure(recipe.with_rates(rates), settings_of(recipe), rates.head or 0.0, 0)
    told: list[Any] = [rates]
    for step in range(steps):
        passes: list[int] = []
        batch = np.arange(step * BATCH, (step + 1) * BATCH)[: BATCH - step % 2]  # now and then a smaller one
        told.append(engine.step(samples, batch, step, 0.5, passes.append))
        assert sum(passes) == told[-1].passes == len(batch) * recipe.passes_a_sample(True)
    told.append(engine.finish(samples))
    assert engine.finish(samples) == 0, "the update has been applied already"
    return told


def test_it_is_an_untrained_model_at_first(make: Make, model: bytes) -> None:
    engine = make(model)
    assert engine.model.data == model and engine.arena_bytes > 1000
    for parameter, found in zip(engine.model.parameters, values(engine), strict=True):
        if not parameter.in_model:  # residuals of rounding
            assert not np.any(found)
            continue
        np.testing.assert_array_equal(found, np.asarray(parameter.initial).reshape(-1), err_msg=parameter.name)


def test_outputs_are_those_of_the_plain_model(make: Make, model: bytes) -> None:
    engine = make(model)
    codes = labelled(engine.model).codes
    found = engine.predict(codes)
    expected = predict_plain(bake(model, {}), codes)
    assert found.dtype == expected.dtype and found.shape == (len(codes), *engine.model.output_shape[1:])
    np.testing.assert_array_equal(found, expected)
    scored = engine.evaluate(labelled(engine.model))
    assert scored.classes is not None and scored.losses.dtype == np.float32
    np.testing.assert_array_equal(scored.classes, expected.argmax(axis=1))
    reference = TflmEngine(engine.model).evaluate(labelled(engine.model))
    np.testing.assert_array_equal(scored.losses, reference.losses)
    engine.confirm(codes)


@pytest.mark.parametrize("loss", ["mse", "entropy"])
def test_other_losses(make: Make, small: bytes, loss: str) -> None:
    engine = make(patch(small, "all", loss))
    targets = Y if loss == "entropy" else np.eye(3, dtype=np.float32)[Y]
    samples = Labelled(*sample_codes(X, targets, engine.model))
    found, expected = engine.evaluate(samples), TflmEngine(engine.model).evaluate(samples)
    np.testing.assert_array_equal(found.losses, expected.losses)
    assert (found.classes is None) == (loss == "mse")


def test_a_training_ends_in_the_same_bits(make: Make, model: bytes) -> None:
    engine, reference = make(model), TflmEngine(read_patched(model))
    found, expected = train(engine), train(reference)
    assert found[0] == expected[0] and found[-1] == expected[-1]
    for ours, theirs in zip(found[1:-1], expected[1:-1], strict=True):
        assert (ours.passes, ours.right) == (theirs.passes, theirs.right)
        # A board adds losses up in single precision.
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert_equal(values(engine), values(reference))
    assert any(np.any(a != b) for a, b in zip(values(engine), values(make_engine("tflm", engine.model)), strict=True))
    codes = labelled(engine.model).codes
    np.testing.assert_array_equal(engine.predict(codes), reference.predict(codes))
    engine.confirm(codes)


def test_measuring_rates_changes_no_weight(make: Make, model: bytes) -> None:
    engine = make(model)
    train(engine)
    before = values(engine)
    rates = engine.measure(make_recipe(engine.model, HYPER), HYPER, labelled(engine.model), epochs=2, seed=3)
    assert isinstance(rates, Rates) and rates.head is not None and rates.head > 0
    assert_equal(values(engine), before)


def test_what_is_refused_is_refused_before_anything_is_changed(make: Make, model: bytes) -> None:
    engine = make(model)
    recipe = make_recipe(engine.model, Hyperparameters(queries=60))
    with pytest.raises(ZoError, match="directions that the ops keep"):
        engine.check(settings_of(recipe, batch=4000))
    train(engine)
    engine.check(settings_of(make_recipe(engine.model, HYPER)))


def test_what_is_read_is_a_copy(make: Make, model: bytes) -> None:
    engine = make(model)
    before = values(engine)
    changed = values(engine)
    for array in changed:
        with_room = np.array(array)
        with_room[:] = 1
    assert_equal(values(engine), before)


def test_what_is_written_is_read_and_used(make: Make, model: bytes) -> None:
    engine, reference = make(model), TflmEngine(read_patched(model))
    train(reference)
    snapshot = reference.read()
    engine.write(Snapshot(snapshot.values, {}))
    assert_equal(values(engine), snapshot.values)
    codes = labelled(engine.model).codes
    np.testing.assert_array_equal(engine.predict(codes), reference.predict(codes))
    # Trained from there, both go on alike but for the momentum states, which were not written.
    engine.reset()
    assert_equal(values(engine), values(make_engine("tflm", engine.model)))


def test_values_that_cannot_be_perturbed_are_refused_with_nothing_changed(make: Make, model: bytes) -> None:
    engine = make(model)
    train(engine)
    before = values(engine)
    wrong = engine.read().values
    wrong[0] = wrong[0] // 2
    bias = next(p for p in engine.model.parameters if p.dtype == np.int32)
    wrong[bias.index] = np.full(bias.count, np.iinfo(np.int32).min, np.int32)
    with pytest.raises(ZoError, match="out of range"):
        engine.write(Snapshot(wrong, {}))
    assert_equal(values(engine), before)


def test_weights_are_set_by_name(make: Make, model: bytes) -> None:
    fit: dict[str, Any] = {"epochs": 1, "batch_size": 8, "holdout": 0.0, "verbose": False}
    trainer, reference = Trainer(model, 5, engine=make(model)), TflmTrainer(model, 5)
    reference.fit(X, Y, **fit)
    trainer.set_weights(reference.weights)
    assert trainer.bake() == reference.bake()
    # What is beside the weights is no part of them.
    beside = TflmTrainer(model, 5)
    beside.set_weights(reference.weights)
    for one in (trainer, beside):
        one.fit(X, Y, **fit)
    assert trainer.bake() == beside.bake()
    assert_equal(values(trainer.engine), values(beside.engine))
    name, bias = next((n, w) for n, w in beside.weights.items() if w.dtype == np.int32)
    before = trainer.weights
    trainer.set_weights({name: bias + 1})
    for other, value in trainer.weights.items():
        np.testing.assert_array_equal(value, before[other] + (other == name), err_msg=other)
    assert not np.any(
        [values(trainer.engine)[p.index] for p in trainer.model.parameters if p.name == f"{name}/residual"]
    )


def test_weights_that_do_not_fit_are_refused_with_nothing_changed(make: Make, model: bytes) -> None:
    trainer = Trainer(model, engine=make(model))
    train(trainer.engine)
    before, progress = values(trainer.engine), trainer.progress
    weights = {name: value // 2 for name, value in trainer.weights.items()}
    first, bias = next(iter(weights)), next(n for n, w in weights.items() if w.dtype == np.int32)
    lowest = np.full_like(weights[bias], np.iinfo(np.int32).min)
    for wrong, message in (
        ({**weights, "other/weights": weights[first]}, "no 'other/weights' is trained: the model has "),
        ({**weights, first: weights[first].astype(np.float32)}, f"{first} is float32 of shape .* it must be int8"),
        ({**weights, first: weights[first].ravel()}, f"{first} is int8 of shape .* it must be int8 of shape"),
        ({**weights, first: weights[first].tolist()}, f"{first} is int64 of shape"),
        ({**weights, bias: lowest}, f"{bias} are out of range"),
    ):
        with pytest.raises(ZoError, match=message):
            trainer.set_weights(wrong)
        assert_equal(values(trainer.engine), before)
        assert trainer.progress is progress


def test_recalibration(make: Make, model: bytes) -> None:
    engine, reference = make(model), TflmEngine(read_patched(model))
    codes = sample_codes(0.6 * X + 0.3, Y, engine.model)[0]
    for one in (engine, reference):
        one.recalibrate(codes)
    assert_equal(values(engine), values(reference))
    assert any(np.any(a != b) for a, b in zip(values(engine), values(make_engine("tflm", engine.model)), strict=True))


def test_samples_may_change_between_fits(make: Make, model: bytes) -> None:
    """What an engine remembers of samples is of these, and of the weights that they were seen with."""
    engine, reference = make(model), TflmEngine(read_patched(model))
    for one in (engine, reference):
        train(one)
        one.recalibrate(labelled(one.model).codes[:5])
        train(one)
        one.write(Snapshot(make_engine("tflm", read_patched(model)).read().values, {}))
        train(one)
    assert_equal(values(engine), values(reference))


def test_executions_only_grow(make: Make, model: bytes) -> None:
    engine = make(model)
    counts = [engine.executions()]
    for _ in range(2):
        engine.evaluate(labelled(engine.model))
        counts.append(engine.executions())
    assert all(one.done <= other.done and one.saved <= other.saved for one, other in itertools.pairwise(counts))
    if not isinstance(engine, SimulatorEngine):
        assert counts[0].done < counts[1].done


@pytest.mark.parametrize("guarded", [False, True])
def test_a_whole_fit(make: Make, small: bytes, guarded: bool) -> None:
    model = patch(small, "exact", adapter=True)
    x, y = small_models.separable_samples(60, 4)
    fit: dict[str, Any] = {"epochs": 3, "batch_size": 8, "verbose": False} | ({} if guarded else {"holdout": 0.0})
    trainer, reference = Trainer(model, 5, engine=make(model)), TflmTrainer(model, 5)
    found, expected = trainer.fit(0.6 * x + 0.3, y, **fit), reference.fit(0.6 * x + 0.3, y, **fit)
    assert trainer.bake() == reference.bake() != TflmTrainer(model).bake()
    assert found.rates == expected.rates and found.guard == expected.guard
    assert trainer.progress == reference.progress
    assert trainer.evaluate(x, y) == reference.evaluate(x, y)
    assert trainer.arena_bytes > 0


def test_a_fit_that_breaks_off_leaves_clean_weights(make: Make, model: bytes) -> None:
    """Whatever the pass that an exception comes in: the weights are those of a step's end, and can be baked."""
    trainer = Trainer(model, engine=make(model))

    def fails(trainer: Trainer, logs: dict[str, float]) -> None:
        raise RuntimeError("the disk is full")

    fit: dict[str, Any] = {"epochs": 2, "batch_size": 8, "holdout": 0.0, "verbose": False}
    with pytest.raises(RuntimeError, match="disk"):
        trainer.fit(X, Y, callbacks=[fails], **fit)
    reference = TflmTrainer(model)
    reference.fit(X, Y, callbacks=[lambda *_: True], **fit)
    assert trainer.bake() == reference.bake()


# -- which engine ---------------------------------------------------------------------------------------------


def test_names_of_engines(model: bytes) -> None:
    kinds = {name: type(Trainer(model, engine=name).engine) for name in ENGINES}
    assert kinds == {"auto": SimulatorEngine, "tflm": TflmEngine, "simulator": SimulatorEngine}
    with pytest.raises(ZoError, match="engine is 'tpu': it must be one of auto, tflm, simulator"):
        Trainer(model, engine="tpu")


def test_what_the_simulator_does_not_know_is_trained_in_tflm() -> None:
    unknown = patch(small_models.small_model("log-softmax"), "all", "mse")
    assert isinstance(Trainer(unknown).engine, TflmEngine)
    with pytest.raises(ZoError, match="LOG_SOFTMAX"):
        Trainer(unknown, engine="simulator")


def test_an_engine_of_another_model(model: bytes, small: bytes) -> None:
    with pytest.raises(ZoError, match="the engine runs another model"):
        Trainer(model, engine=TflmEngine(read_patched(patch(small, "head"))))


def test_a_fit_in_the_simulator_is_confirmed_in_tflm(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs that differ are an error, whatever made them so; searches do without the look."""
    fit: dict[str, Any] = {"epochs": 1, "batch_size": 8, "verbose": False}

    class Other(simulator_engine.Interpreter):
        def run(self, x: np.ndarray, output: int = 0) -> np.ndarray:
            return super().run(x, output) ^ 1

    Trainer(model).fit(X, Y, **fit)
    monkeypatch.setattr(simulator_engine, "Interpreter", Other)
    with pytest.raises(ZoError, match="simulator and TFLite Micro give different outputs"):
        Trainer(model).fit(X, Y, **fit)
    Trainer(model, engine=SimulatorEngine(read_patched(model), confirms=False)).fit(X, Y, **fit)
    Trainer(model, engine="tflm").fit(X, Y, **fit)


def test_without_tflm_the_simulator_trains_alone(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "available", lambda: False)
    monkeypatch.setattr(simulator_engine, "Interpreter", None)
    trainer = Trainer(model, 5)
    trainer.fit(X, Y, epochs=2, verbose=False)
    reference = TflmTrainer(model, 5)
    reference.fit(X, Y, epochs=2, verbose=False)
    assert trainer.bake() == reference.bake()


# -- boards and files -------------------------------------------------------------------------------------------


@pytest.fixture
def board(small: bytes, tmp_path: Path) -> Iterator[Trainer]:
    """A board whose model has no momentum states."""
    app = Board(patch(small, "exact"), tmp_path / "flash")
    yield board_trainer(Device(SerialPort(app.port), 20.0), 5)
    app.stop()


def test_what_a_board_has_learned_goes_on_here(board: Trainer, tmp_path: Path) -> None:
    fit: dict[str, Any] = {"epochs": 2, "batch_size": 8, "holdout": 0.0, "verbose": False}
    board.fit(X, Y, **fit)
    board.save(tmp_path / "state")
    host, reference = Trainer(board.model.data), TflmTrainer(board.model.data, 5)
    host.load(tmp_path / "state")
    assert host.bake() == board.bake() and host.progress == board.progress and host.seed == 5
    reference.fit(X, Y, **fit)
    for trainer in (host, reference):
        trainer.fit(X, Y, **fit)
    assert host.bake() == reference.bake()


def test_what_was_learned_here_goes_on_on_a_board(board: Trainer, tmp_path: Path) -> None:
    fit: dict[str, Any] = {"epochs": 2, "batch_size": 8, "holdout": 0.0, "verbose": False}
    host = Trainer(board.model.data, 7)
    host.fit(X, Y, **fit)
    host.save(tmp_path / "state")
    board.load(tmp_path / "state")
    assert board.bake() == host.bake()
    for trainer in (host, board):
        trainer.fit(X, Y, **fit)
    assert board.bake() == host.bake() and board.progress == host.progress


def test_momentum_states_stay_where_they_are(small: bytes, tmp_path: Path) -> None:
    model = patch(small, "exact", adapter=True)
    app = Board(model, tmp_path / "flash")
    board, host = board_trainer(Device(SerialPort(app.port), 20.0)), Trainer(model)
    for trainer in (board, host):
        trainer.fit(X, Y, epochs=1, verbose=False)
    with pytest.raises(ZoError, match="has a momentum state, which a board does not tell"):
        board.save(tmp_path / "state")
    host.save(tmp_path / "state")
    before = board.bake()
    with pytest.raises(ZoError, match="momentum states cannot be sent to a board"):
        board.load(tmp_path / "state")
    assert board.bake() == before
    app.stop()
