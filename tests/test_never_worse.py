# SPDX-License-Identifier: Apache-2.0
"""A fit never ends with a model that samples which did not make it find worse; interrupted or not, on every engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from trainers import SimTrainer, TflmTrainer, board_trainer, device_of, values_of

from tflm_zo import Trainer, ZoError, patch
from tflm_zo.serial.device import Device
from tflm_zo.serial.port import SerialPort
from tflm_zo.serial.virtual_board import HostApp, PseudoTerminal
from tflm_zo.training.fit import Fit
from tflm_zo.training.guard import MOST_CUTS, hold_out
from tflm_zo.training.trainer import History


def noisy_samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Patterns under so much noise that no model answers all right."""
    x, y = small_models.separable_samples(count, seed)
    return x + np.random.default_rng(seed).normal(0, 0.9, x.shape).astype(np.float32), y


# So many samples are held out of, and so few are tried on halves.
MANY = noisy_samples(220, seed=5)
FEW = noisy_samples(36, seed=6)
SETS = {"held out": MANY, "halves": FEW}
TEST = noisy_samples(200, seed=8)
ABSURD: dict[str, Any] = {"epochs": 6, "head_lr": 1e3, "verbose": False}


@pytest.fixture(scope="module")
def head(small: bytes) -> bytes:
    return patch(small, "head")


@pytest.fixture(scope="module")
def taught(head: bytes) -> bytes:
    """A model that knows the patterns, but for a few samples."""
    trainer = SimTrainer(head)
    trainer.fit(*MANY, epochs=2, holdout=0.0, verbose=False)
    assert 0.7 < trainer.evaluate(*TEST)["accuracy"] < 1.0
    return trainer.bake()


def state(trainer: Trainer) -> list[np.ndarray]:
    """All that training changes: weights, residuals, moments."""
    return list(values_of(trainer).values())


def assert_same(a: Trainer, b: Trainer) -> None:
    for one, other in zip(state(a), state(b), strict=True):
        np.testing.assert_array_equal(one, other)


def held_out_of(y: np.ndarray, seed: int, samples: int) -> np.ndarray:
    """The samples that a fit of this seed holds out, found by their number."""
    return hold_out(y, len(y), samples, seed)[1]


# -- never worse ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [TflmTrainer, SimTrainer], ids=["tflm", "simulator"])
@pytest.mark.parametrize("mode", SETS)
def test_absurd_rates_leave_the_start_to_the_bit(taught: bytes, mode: str, engine: Callable[..., Trainer]) -> None:
    """In every look the weights are worse; with halves, samples of the other half say so."""
    trainer = engine(patch(taught, "head"), seed=2)
    before, scores = state(trainer), trainer.evaluate(*TEST)
    history = trainer.fit(*SETS[mode], **ABSURD)
    assert history.guard.mode == mode and history.guard.kept == "start"
    assert history.guard.error_after == history.guard.error_before
    for one, other in zip(before, state(trainer), strict=True):
        np.testing.assert_array_equal(one, other)
    assert trainer.evaluate(*TEST) == scores
    worst = engine(patch(taught, "head"), seed=2)
    worst.fit(*SETS[mode], holdout=0.0, **(ABSURD | {"lr_schedule": "constant"}))
    assert worst.evaluate(*TEST)["accuracy"] < scores["accuracy"], "the rates are not absurd"


@pytest.mark.parametrize("head_lr", [None, 0.03, 3.0, 100.0, 1e6])
@pytest.mark.parametrize("drift", [0.0, 0.3, 1.0])
def test_held_out_samples_are_never_answered_worse(taught: bytes, drift: float, head_lr: float | None) -> None:
    """Whatever the rate and the drift: neither the mean error of those samples nor their right answers."""
    x, y = MANY[0] + np.float32(drift), MANY[1]
    trainer = SimTrainer(patch(taught, "exact"), seed=4)
    count = len(held_out_of(y, 4, round(0.2 * len(y))))
    held = held_out_of(y, 4, round(0.2 * len(y)))
    before = trainer.evaluate(x[held], y[held])["accuracy"]
    guard = trainer.fit(x, y, epochs=5, head_lr=head_lr, verbose=False).guard
    assert guard.samples == count and guard.error_before is not None and guard.error_after is not None
    after = trainer.evaluate(x[held], y[held])["accuracy"]
    if guard.kept == "start":
        assert guard.error_after == guard.error_before and after == before
    else:
        assert guard.error_after < guard.error_before and after > before


@pytest.mark.parametrize("mode", SETS)
def test_a_drifted_sensor_is_learned(taught: bytes, mode: str) -> None:
    """With the default rates: better on samples that the fit has never seen."""
    x, y = SETS[mode]
    test = TEST[0] * 0.6 + 0.5, TEST[1]
    trainer = SimTrainer(patch(taught, "head"))
    before = trainer.evaluate(*test)["accuracy"]
    guard = trainer.fit(x * 0.6 + 0.5, y, verbose=False).guard
    # Held-out samples have shown that training helps: then they are trained on, too.
    assert guard.kept == "last"
    assert guard.error_before is not None and guard.error_after is not None and guard.error_after < guard.error_before
    assert before < 0.75 and trainer.evaluate(*test)["accuracy"] > before + 0.15


def test_halves_end_with_the_training_on_all_samples(head: bytes) -> None:
    """To the bit that of a fit without a guard which begins its steps where the halves have ended."""
    x, y = FEW
    settings: dict[str, Any] = {"epochs": 10, "batch_size": 5, "head_lr": 0.1, "verbose": False}
    guarded, plain = SimTrainer(head, seed=1), SimTrainer(head, seed=1)
    history = guarded.fit(x, y, **settings)
    assert history.guard.kept == "last" and history.guard.samples == len(x)
    assert len(history.epochs) == 3 * settings["epochs"]
    plain.progress.step = 2 * 10 * 4
    plain.fit(x, y, holdout=0.0, **settings)
    assert_same(guarded, plain)
    # Both halves scored twice, and trained on; then everything.
    assert guarded.progress.passes == 2 * 36 + 2 * 10 * 36


def test_a_model_that_is_right_already_is_left_alone(head: bytes) -> None:
    """Whoever answers all held-out samples right is not trained on the others."""
    teacher = SimTrainer(head)
    clean = small_models.separable_samples(220, seed=5)
    teacher.fit(*clean, epochs=20, holdout=0.0, verbose=False)
    trainer = SimTrainer(patch(teacher.bake(), "head"))
    before = state(trainer)
    history = trainer.fit(*clean, epochs=3, verbose=False)
    assert history.epochs == [] and history.guard.kept == "start" and history.guard.error_before is not None
    for one, other in zip(before, state(trainer), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("samples", [40, 240])
def test_a_regression_is_guarded_by_its_loss(samples: int) -> None:
    model = patch(small_models.dense_model("", outputs=3))
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (samples, 20)).astype(np.float32)
    y = SimTrainer(model).predict(x) * 0.5 + 0.1
    for head_lr, kept in ((None, ("best", "last")), (1e3, ("start",))):
        trainer = SimTrainer(model)
        before = trainer.evaluate(x, y)["loss"]
        guard = trainer.fit(x, y, epochs=6, head_lr=head_lr, verbose=False).guard
        assert guard.kept in kept and guard.mode == ("held out" if samples == 240 else "halves")
        after = trainer.evaluate(x, y)["loss"]
        assert after < 0.5 * before if head_lr is None else after == before


def test_without_labels_there_is_nothing_to_judge_by(small: bytes) -> None:
    """Labels that are given with loss entropy tell the accuracy only; a fit without them gives the same weights."""
    model = patch(small, "exact", "entropy", adapter=True)
    labelled, bare = SimTrainer(model), SimTrainer(model)
    assert labelled.fit(*MANY, epochs=2, verbose=False).guard.mode == "none"
    assert bare.fit(MANY[0], epochs=2, verbose=False).guard.mode == "none"
    assert_same(labelled, bare)


# -- passes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", SETS)
@pytest.mark.parametrize("trainable", ["head", "all"])
def test_passes_stay_a_bound(small: bytes, trainable: str, mode: str) -> None:
    """With everything that measures and judges, and nothing that a fit without a guard could train is refused."""
    model = patch(small, trainable)
    modes = set()
    for passes in (60, 150, 250, 300, 400, 450, 700, 1500, 4000):
        trainer, plain = SimTrainer(model), SimTrainer(model)
        settings: dict[str, Any] = {"passes": passes, "epochs": 50, "batch_size": 8, "queries": 2, "verbose": False}
        try:
            plain.fit(*SETS[mode], holdout=0.0, **settings)
        except ZoError:
            with pytest.raises(ZoError, match=f"passes is {passes}, but"):
                trainer.fit(*SETS[mode], **settings)
            continue
        modes.add(trainer.fit(*SETS[mode], **settings).guard.mode)
        assert trainer.progress.passes <= passes
    assert modes == {"none", mode}


# -- interrupted ---------------------------------------------------------------------------------------------

# What fits go through, by the rate: they learn; are tried in vain and cut; learn and are cut later.
RATES = {"learns": 0.05, "absurd": 1e3, "too large": 3.0}


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("mode", SETS)
def test_interrupted_after_every_epoch_is_as_never_interrupted(
    taught: bytes, tmp_path: Path, mode: str, rate: str, stored: bool
) -> None:
    """By a callback; in the same trainer, or through a checkpoint in another each time."""
    model = patch(taught, "exact")
    x, y = SETS[mode][0] + np.float32(0.4), SETS[mode][1]
    settings: dict[str, Any] = {"epochs": 6, "head_lr": RATES[rate], "verbose": False}
    whole = SimTrainer(model, seed=3)
    expected = whole.fit(x, y, **settings)
    part, epochs = SimTrainer(model, seed=3), []
    while True:
        history = part.fit(x, y, resume=True, callbacks=[lambda *_: True], **settings)
        epochs += history.epochs
        if not history.interrupted:
            break
        assert len(history.epochs) == 1 and len(epochs) <= 40
        if stored:
            part.save(tmp_path / "state")
            part = SimTrainer(model, seed=99)
            part.load(tmp_path / "state")
    assert_same(whole, part)
    assert history.guard == expected.guard
    assert part.progress == whole.progress and epochs == expected.epochs


@pytest.mark.parametrize("mode", SETS)
def test_an_interrupted_fit_shows_the_best_weights_so_far(taught: bytes, tmp_path: Path, mode: str) -> None:
    """Until others are found better: those of the start, and so does what is saved."""
    trainer = SimTrainer(patch(taught, "head"), seed=3)
    before = state(trainer)
    history = trainer.fit(*SETS[mode], callbacks=[lambda *_: True], **ABSURD)
    assert history.interrupted
    trainer.save(tmp_path / "state")
    loaded = TflmTrainer(patch(taught, "head"))
    loaded.load(tmp_path / "state")
    for shown in (trainer, loaded):
        for one, other in zip(before, state(shown), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mode", SETS)
def test_ctrl_c_in_the_last_batch_of_an_epoch_loses_no_look(
    taught: bytes, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every batch in turn: as if never interrupted."""
    model = patch(taught, "head")
    x, y = SETS[mode][0][:210] + np.float32(0.4), SETS[mode][1][:210]
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 60, "head_lr": 0.05, "verbose": False}
    whole = SimTrainer(model, seed=3)
    expected = whole.fit(x, y, **settings)
    epoch = Fit._epoch

    class OneBatch(threading.Event):
        """Looked at before each batch: set from the second time on."""

        def __init__(self) -> None:
            super().__init__()
            self.looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks > 1

    monkeypatch.setattr(Fit, "_epoch", lambda self, phase: epoch(self, replace(phase, interrupt=OneBatch())))
    monkeypatch.setattr("tflm_zo.training.fit.interruptible", Interrupted)
    part, fits = SimTrainer(model, seed=3), 0
    while (history := part.fit(x, y, resume=True, **settings)).interrupted:
        fits += 1
        assert fits < 40
    assert history.guard == expected.guard
    assert_same(whole, part)


class Interrupted:
    """A context whose event says that Ctrl-C has come."""

    def __enter__(self) -> threading.Event:
        event = threading.Event()
        event.set()
        return event

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("mode", SETS)
def test_a_finished_fit_has_nothing_left(taught: bytes, tmp_path: Path, mode: str) -> None:
    """Also if the guard has ended it early: resumed, it trains nothing and keeps weights, passes and outcome."""
    for rate in (0.05, 1e3):
        settings: dict[str, Any] = {"epochs": 20, "head_lr": rate, "passes": 3000, "verbose": False}
        trainer = SimTrainer(patch(taught, "head"))
        finished = trainer.fit(*SETS[mode], **settings)
        trainer.save(tmp_path / "state")
        again = SimTrainer(patch(taught, "head"))
        again.load(tmp_path / "state")
        for resumed in (trainer, again):
            passes, before = resumed.progress.passes, state(resumed)
            history = resumed.fit(*SETS[mode], resume=True, **settings)
            assert history.epochs == [] and not history.interrupted and history.guard == finished.guard
            assert resumed.progress.passes == passes
            for one, other in zip(before, state(resumed), strict=True):
                np.testing.assert_array_equal(one, other)


def test_resuming_with_other_samples_is_refused(head: bytes) -> None:
    trainer = SimTrainer(head)
    trainer.fit(*MANY, callbacks=[lambda *_: True], verbose=False)
    before = state(trainer)
    with pytest.raises(ZoError, match="same samples"):
        trainer.fit(*FEW, resume=True, verbose=False)
    for one, other in zip(before, state(trainer), strict=True):
        np.testing.assert_array_equal(one, other)


# -- the same on every engine --------------------------------------------------------------------------------


class Boards:
    """Virtual boards that share a flash: each starts where the one before it was switched off."""

    def __init__(self, flash: Path) -> None:
        self.flash = flash
        self._stop: Callable[[], None] = lambda: None

    def start(self, model: bytes) -> str:
        """Switch the present board off and another one on; returns its port."""
        self._stop()
        terminal = PseudoTerminal()
        stopped = threading.Event()
        app = HostApp(model, terminal.line, self.flash)
        thread = threading.Thread(target=app.serve, args=(stopped.is_set,), daemon=True)
        thread.start()

        def stop() -> None:
            stopped.set()
            thread.join()
            app.close()
            terminal.close()

        self._stop = stop
        return terminal.name

    def trainer(self, model: bytes, seed: int, checkpoints: bool = True) -> Trainer:
        """A trainer of a new board."""
        return connect(self.start(model), seed, checkpoints)

    def close(self) -> None:
        self._stop()


def connect(port: str, seed: int, checkpoints: bool = True) -> Trainer:
    return board_trainer(Device(SerialPort(port), 20.0), seed, checkpoints)


@pytest.fixture
def boards(tmp_path: Path) -> Any:
    found = Boards(tmp_path / "flash")
    yield found
    found.close()


@pytest.mark.parametrize("rate", ["learns", "absurd"])
@pytest.mark.parametrize("mode", SETS)
def test_all_engines_keep_the_same_weights(taught: bytes, boards: Boards, mode: str, rate: str) -> None:
    """TFLite Micro, with its frozen layers apart, the simulator, and boards with and without checkpoints."""
    model = patch(taught, "exact")
    x, y = SETS[mode][0] + np.float32(0.4), SETS[mode][1]
    settings: dict[str, Any] = {"epochs": 3, "head_lr": RATES[rate], "verbose": False}
    found: list[tuple[bytes, int, History]] = []
    for make in (TflmTrainer, SimTrainer, boards.trainer):
        trainer = make(model, seed=5)
        history = trainer.fit(x, y, **settings)
        found.append((trainer.bake(), trainer.progress.passes, history))
    boards.flash.unlink()
    board = boards.trainer(model, 5, checkpoints=False)
    history = board.fit(x, y, **settings)
    found.append((board.bake(), board.progress.passes, history))
    for baked, passes, history in found[1:]:
        assert baked == found[0][0] and passes == found[0][1]
        assert history.guard == found[0][2].guard and history.rates == found[0][2].rates
    assert found[0][2].guard.mode == mode
    assert (found[0][0] == taught_weights(taught)) == (rate == "absurd")


def taught_weights(model: bytes) -> bytes:
    """The model as a trainer bakes it that has not been trained."""
    return SimTrainer(patch(model, "exact")).bake()


def test_cuts_are_counted(taught: bytes) -> None:
    guard = SimTrainer(patch(taught, "head")).fit(*MANY, **(ABSURD | {"epochs": 30, "head_lr": 1e6})).guard
    assert 0 < guard.cuts <= MOST_CUTS + 1 and guard.looked <= 10


def test_two_trainers_are_guarded_apart(taught: bytes) -> None:
    """The second is trained, by single epochs, in the middle of the first's training."""
    model = patch(taught, "exact")
    settings: dict[str, Any] = {"epochs": 4, "head_lr": 0.05, "verbose": False}
    drifted = {mode: (x + np.float32(0.4), y) for mode, (x, y) in SETS.items()}
    alone = {mode: TflmTrainer(model, seed=3) for mode in SETS}
    outcomes = {mode: trainer.fit(*drifted[mode], **settings).guard for mode, trainer in alone.items()}
    first, second = TflmTrainer(model, seed=3), TflmTrainer(model, seed=3)
    history = History(interrupted=True)

    def an_epoch_of_the_other(*_: Any) -> None:
        nonlocal history
        if history.interrupted:
            history = second.fit(*drifted["held out"], resume=True, callbacks=[lambda *_: True], **settings)

    guard = first.fit(*drifted["halves"], callbacks=[an_epoch_of_the_other], **settings).guard
    assert not history.interrupted and guard == outcomes["halves"] and history.guard == outcomes["held out"]
    assert_same(first, alone["halves"])
    assert_same(second, alone["held out"])


# -- boards that start anew ----------------------------------------------------------------------------------

BOARD: dict[str, Any] = {"epochs": 4, "verbose": False}


@pytest.mark.parametrize("after", [60, 130, 300, 450])
@pytest.mark.parametrize("rate", ["learns", "absurd"])
@pytest.mark.parametrize("mode", SETS)
def test_a_board_that_starts_anew_is_judged_as_if_it_had_not(
    taught: bytes, boards: Boards, mode: str, rate: str, after: int
) -> None:
    """While the start is scored, in an epoch, at its end, in the second half: weights, outcome and epochs."""
    model = patch(taught, "exact")
    x, y = SETS[mode][0] + np.float32(0.4), SETS[mode][1]
    host = SimTrainer(model, seed=5)
    expected = host.fit(x, y, head_lr=RATES[rate], **BOARD)
    lines = after

    class Plug(SerialPort):
        """Pulled out once, after so many lines; the board is another one then."""

        def write(self, line: bytes) -> None:
            nonlocal lines
            lines -= 1
            if lines == 0:
                self.name = boards.start(model)
                raise OSError("gone")
            super().write(line)

    device = Device(Plug(boards.start(model)), 20.0)
    remote = board_trainer(device, 5)
    history = remote.fit(x, y, head_lr=RATES[rate], **BOARD)
    assert lines < 0 and device.link.reconnections == 1
    assert remote.bake() == host.bake() and history.guard == expected.guard
    assert len(history.epochs) == len(expected.epochs)


@pytest.mark.parametrize("checkpoints", [True, False])
@pytest.mark.parametrize("mode", SETS)
def test_a_board_interrupted_after_every_epoch(taught: bytes, boards: Boards, mode: str, checkpoints: bool) -> None:
    """It shows the best weights so far, and comes to those of a fit that was not interrupted."""
    model = patch(taught, "exact")
    x, y = SETS[mode][0] + np.float32(0.4), SETS[mode][1]
    settings = BOARD | {"epochs": 2, "head_lr": 0.05}
    host = SimTrainer(model, seed=5)
    expected = host.fit(x, y, **settings)
    remote = boards.trainer(model, 5, checkpoints)
    seen = 0
    # With checkpoints the epochs after the newest one are gone through again: interrupted every time it would not end.
    while (
        history := remote.fit(
            x,
            y,
            resume=seen > 0,
            callbacks=[lambda *_, first=seen == 0: not checkpoints or first],
            **settings,
        )
    ).interrupted:
        if mode == "halves" and seen == 0:
            assert remote.bake() == taught_weights(taught)
        seen += 1
        assert seen < 20
    assert seen and remote.bake() == host.bake() and history.guard == expected.guard


def test_another_host_begins_again_or_says_why_not(taught: bytes, boards: Boards) -> None:
    """Which weights are judged is known to the host that began: another one goes on from the start alone."""
    model = patch(taught, "exact")
    x, y = FEW[0] + np.float32(0.4), FEW[1]
    host = SimTrainer(model, seed=5)
    host.fit(x, y, head_lr=0.05, **BOARD)

    def dies(trainer: Trainer, _: dict[str, float]) -> None:
        raise RuntimeError("power failure")

    port = boards.start(model)
    with pytest.raises(RuntimeError):
        connect(port, 5).fit(x, y, head_lr=0.05, callbacks=[dies], **BOARD)
    again = connect(port, 5)
    assert device_of(again).hello.progress.steps > 0
    again.fit(x, y, head_lr=0.05, resume=True, **BOARD)
    assert again.bake() == host.bake()
    with pytest.raises(ZoError, match="only the host that began it"):
        connect(port, 5).fit(x, y, head_lr=0.05, resume=True, **BOARD)
