# SPDX-License-Identifier: Apache-2.0
"""Training over a serial line: the app in C++ behind a pseudo-terminal, with real training in TFLM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from faulty_line import FaultyLine
from trainers import TflmTrainer, board_trainer, device_of

from tflm_zo.errors import ZoError
from tflm_zo.patching.frozen_prefix import layer_count, split
from tflm_zo.patching.patch import patch
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.serial import virtual_board
from tflm_zo.serial.board_engine import BoardEngine
from tflm_zo.serial.device import Device
from tflm_zo.serial.link import BoardRestarted, Link
from tflm_zo.serial.messages import Request
from tflm_zo.serial.port import SerialPort
from tflm_zo.serial.virtual_board import HostApp, PseudoTerminal
from tflm_zo.training.patience import Patience
from tflm_zo.training.trainer import Trainer

pytest.importorskip("serial")

MASKED: dict[str, Any] = {
    "method": {"stem": "weights", "dense": "frozen"},
    "keep": 0.5,
    "lr": 1e-3,
    "gradient_scaling": "sqrt-dim",
    "lr_schedule": "cosine",
}
SMALL_FIT: dict[str, Any] = {"epochs": 3, "batch_size": 8, "queries": 2, "holdout": 0.0, "verbose": False}


class Board:
    """The app in a thread of this process, behind a pseudo-terminal."""

    def __init__(self, model: bytes, flash: Path, **options: Any) -> None:
        self._terminal = PseudoTerminal()
        self.port = self._terminal.name
        self._stopped = threading.Event()
        self.app = HostApp(model, self._terminal.line, flash, **options)
        self._thread = threading.Thread(target=self.app.serve, args=(self._stopped.is_set,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if not self._stopped.is_set():
            self._stopped.set()
            self._thread.join()
            self.app.close()
            self._terminal.close()


@pytest.fixture
def make_board(tmp_path: Path) -> Iterator[Callable[..., Board]]:
    boards: list[Board] = []

    def make(model: bytes, **options: Any) -> Board:
        boards.append(Board(model, tmp_path / "flash", **options))
        return boards[-1]

    yield make
    for board in boards:
        board.stop()


def connect(port: str, seed: int = 0, patience: float = 20.0) -> Trainer:
    device = Device(SerialPort(port), patience)
    return board_trainer(device, seed)


def host_result(model: bytes, seed: int, data: Any, test: Any, **fit: Any) -> dict[str, Any]:
    trainer = TflmTrainer(model, seed=seed)
    trainer.fit(*data, **fit)
    return {"model": trainer.bake(), "passes": trainer.progress.passes} | trainer.evaluate(*test)


def remote_result(remote: Trainer, data: Any, test: Any, **fit: Any) -> dict[str, Any]:
    remote.fit(*data, **fit)
    return {"model": remote.bake(), "passes": remote.progress.passes} | remote.evaluate(*test)


MODELS = {
    "head": lambda small: patch(small, "head"),
    "exact": lambda small: patch(small, "exact"),
    "late": lambda small: patch(small_models.residual_model(), "b2,dense"),
    "all": lambda small: patch(small, "all"),
    "adapter": lambda small: patch(small, "exact", adapter=True),
    "accumulate": lambda small: patch(small, "all", accumulate=True),
    "float": lambda small: patch(small_models.small_model(float_ends=True), "bias"),
    "masks": lambda small: patch(small, "all"),
    "entropy": lambda small: patch(small, "exact", "entropy", adapter=True),
    "sigmoid": lambda small: patch(small_models.small_model("logistic", outputs=1), "all"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_trains_to_the_bits_of_the_host(
    small: bytes, make_board: Callable[..., Board], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = MODELS[kind](small)
    fit = SMALL_FIT | (MASKED if kind == "masks" else {})
    classes = 2 if kind == "sigmoid" else 3
    data: tuple[np.ndarray, ...] = small_models.separable_samples(44, 1, classes)
    test = small_models.separable_samples(40, 2, classes)
    expected = host_result(model, 5, data, test, **fit)
    board = make_board(model)
    remote = connect(board.port, 5)
    device = device_of(remote)
    infer, asked_again = device.infer, []  # samples whose class the report leaves open

    def counted(code: np.ndarray) -> tuple[int, bytes]:
        asked_again.append(code)
        return infer(code)

    monkeypatch.setattr(device, "infer", counted)
    before = remote.evaluate(*test)
    assert before == TflmTrainer(model).evaluate(*test)
    if kind == "entropy":
        data = (data[0],)  # no labels
        expected = host_result(model, 5, data, test, **fit)
    assert remote_result(remote, data, test, **fit) == expected
    assert expected["loss"] != before["loss"]
    executions = remote.engine.executions()
    executed, saved = executions.done, executions.saved
    passes = device.metrics().passes
    assert executed + saved == passes * layer_count(model)
    # Two evaluations of 40 samples, and once for a sample of a step; rates are measured on the host.
    parts = split(model)
    runs = 2 * 40 + 3 * 44 + len(asked_again)
    assert saved == (0 if parts is None else (passes - runs) * parts.prefix_layers)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_faults_cost_retries_only(small: bytes, make_board: Callable[..., Board], seed: int) -> None:
    """Far more faults than any line has."""
    model = patch(small, "all")
    data, test = small_models.separable_samples(24, 1), small_models.separable_samples(20, 2)
    expected = host_result(model, 0, data, test, **SMALL_FIT)
    line = FaultyLine(make_board(model).port, seed, dropped=0.04, damaged=0.04, repeated=0.08)
    remote = connect(line.name)
    assert remote_result(remote, data, test, **SMALL_FIT) == expected
    metrics = device_of(remote).metrics()
    line.close()
    assert line.done["dropped"] > 8 and line.done["damaged"] > 8 and line.done["repeated"] > 20
    assert device_of(remote).link.repeats > 20
    assert metrics.damaged_frames > 0
    # Without those that measure rates: of the exact layers, and by three passes of 16 samples of the other one.
    assert metrics.progress.passes == expected["passes"] - 24 - 3 * 16


def test_device_calls(small: bytes, make_board: Callable[..., Board]) -> None:
    model = patch(small, "exact", adapter=True)
    board = make_board(model)
    remote = connect(board.port)
    device = device_of(remote)
    assert device.read_model() == model
    assert "no checkpoint" in device.hello.message
    for parameter in remote.model.parameters:
        found = device.parameter(parameter.index)
        assert (found.kind, found.count, found.moments) == (parameter.kind, parameter.count, parameter.moments)
        assert found.headroom == parameter.entry.headroom
    x, y = small_models.separable_samples(10, 3)
    trainer = TflmTrainer(model)
    assert np.array_equal(remote.predict_codes(x), trainer.predict_codes(x))
    assert np.array_equal(remote.predict(x), trainer.predict(x))

    first = next(p for p in remote.model.parameters if p.name.endswith("weights"))
    values = np.clip(device.read_weights(first).astype(int) + 3, -100, 100).astype(np.int8)
    device.write_weights(first, values)
    assert np.array_equal(device.read_weights(first), values)
    with pytest.raises(ZoError, match="out of range"):
        device.write_weights(first, np.full_like(values, -128))
    device.factory_reset()
    assert np.array_equal(device.read_weights(first).reshape(-1), first.initial)
    with pytest.raises(ZoError, match=r"restore: no checkpoint saved yet"):
        device.restore()
    # A step of one sample.
    device.set_schedule(
        run=1, step=0, seed=0, antithetic=True, exact=True, head_rate=0.1, accumulate=False, groups=[], batch=1
    )
    quantization = remote.model.input_quantization
    assert quantization is not None
    target = np.array([int(y[0])], np.int32)
    sample = np.rint(x[:1] / quantization.scale + quantization.zero_point).astype(np.int8)
    assert device.train(sample, target, 0, 1.0).passes == 1
    assert device.metrics().progress.steps == 1


@pytest.mark.parametrize("faults", [False, True])
def test_recalibrates_to_the_bits_of_the_host(small: bytes, make_board: Callable[..., Board], faults: bool) -> None:
    """Without labels; and training goes on from there, also after the board has started anew."""
    x, y = small_models.separable_samples(40, 1)
    test = small_models.separable_samples(40, 2)
    model = patch(small, "exact", adapter=True, reference=x)
    drifted = (0.6 * x + 0.3, y)
    trainer = TflmTrainer(model, seed=5)
    trainer.recalibrate(drifted[0])
    expected = trainer.bake()
    assert expected != TflmTrainer(model).bake()
    trainer.fit(*drifted, **SMALL_FIT)
    boards = [make_board(model)]
    line = FaultyLine(boards[0].port, 3, dropped=0.04, damaged=0.04, repeated=0.08) if faults else None
    remote = connect(boards[0].port if line is None else line.name, 5)
    device_of(remote).observe(np.full(64, 9, np.int8))  # of whoever was there before
    remote.recalibrate(drifted[0])
    assert device_of(remote).metrics().passes == 1  # the one at the start
    assert remote.bake() == expected
    if line is not None:
        line.close()
        assert device_of(remote).link.repeats > 5
    boards[0].stop()
    remote = connect(make_board(model).port, 5)
    assert "restored" in device_of(remote).hello.message
    assert remote.bake() == expected
    assert remote_result(remote, drifted, test, **SMALL_FIT)["model"] == trainer.bake()
    # What was learned does not matter, nor does its momentum.
    remote.engine.recalibrate(remote.recalibration_codes(drifted[0]))
    trainer.recalibrate(drifted[0])
    assert remote.bake() == trainer.bake()
    remote.fit(*drifted, **SMALL_FIT)
    trainer.fit(*drifted, **SMALL_FIT)
    assert remote.bake() == trainer.bake()


def test_recalibration_request_by_request(make_board: Callable[..., Board]) -> None:
    original = small_models.small_model()
    x, _ = small_models.separable_samples(10, 1)
    remote = connect(make_board(patch(original, "exact", adapter=True, reference=x), batch_size=2).port)
    device = device_of(remote)
    codes = remote.recalibration_codes(x - 0.2)
    before = remote.bake()
    device.begin_observation()
    assert device.observe(codes[0]) == 1
    with pytest.raises(ZoError, match=r"recalibrate: too few samples .* at least 2"):
        device.recalibrate()
    with pytest.raises(ZoError, match="the sample has another size"):
        device.observe(np.zeros(65, np.int8))
    # Samples of a batch are not in the way, but for a full one.
    device.add_sample(codes[0], np.zeros(1, np.int32))
    assert device.observe(codes[1]) == 2
    device.add_sample(codes[1], np.zeros(1, np.int32))
    with pytest.raises(ZoError, match="no room for another sample"):
        device.observe(codes[2])
    assert remote.bake() == before
    device.begin_batch()
    assert device.recalibrate() == 2
    host = TflmTrainer(remote.model.data)
    host.recalibrate(codes[:2])
    assert remote.bake() == host.bake() != before
    # The next samples begin anew, also those of another session.
    assert device.observe(codes[0]) == 1
    device.begin_observation()
    assert device.observe(codes[0]) == 1
    device.link.hello()
    assert device.observe(codes[0]) == 1


@pytest.mark.parametrize("adapter", [False, True])
def test_a_board_without_reference_says_so(small: bytes, make_board: Callable[..., Board], adapter: bool) -> None:
    remote = connect(make_board(patch(small, "exact", adapter=adapter)).port)
    with pytest.raises(ZoError, match="patch it with --adapter and --reference"):
        device_of(remote).begin_observation()
    with pytest.raises(ZoError, match="nothing to recalibrate by"):
        remote.recalibrate(small_models.separable_samples(10, 1)[0])


def test_a_sketch_without_memory_for_sums_says_so(
    small: bytes, make_board: Callable[..., Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that was written before there was recalibration."""
    x, _ = small_models.separable_samples(10, 1)
    monkeypatch.setattr(virtual_board, "reference_channels", lambda model: 7)
    remote = connect(make_board(patch(small, "exact", adapter=True, reference=x)).port)
    with pytest.raises(ZoError, match="no memory to recalibrate with: export the model again"):
        remote.recalibrate(x)


def test_observed_samples_larger_than_a_frame(make_board: Callable[..., Board]) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (12, 3000)).astype(np.float32)
    model = patch(small_models.dense_model(features=3000, outputs=5), "exact", adapter=True, reference=x)
    remote, host = connect(make_board(model).port), TflmTrainer(model)
    for trainer in (remote, host):
        trainer.recalibrate(0.7 * x)
    assert remote.bake() == host.bake() != TflmTrainer(model).bake()


def test_samples_larger_than_a_frame(make_board: Callable[..., Board]) -> None:
    model = patch(small_models.dense_model(features=3000, outputs=5), "exact")
    rng = np.random.default_rng(0)
    data = rng.uniform(-1, 1, (12, 3000)).astype(np.float32), rng.integers(0, 5, 12)
    expected = host_result(model, 0, data, data, epochs=2, verbose=False)
    board = make_board(model)
    assert remote_result(connect(board.port), data, data, epochs=2, verbose=False) == expected


def test_a_board_that_restarts_goes_on_from_its_checkpoint(small: bytes, make_board: Callable[..., Board]) -> None:
    model = patch(small, "all")
    data, test = small_models.separable_samples(40, 1), small_models.separable_samples(20, 2)
    expected = host_result(model, 0, data, test, **SMALL_FIT)
    boards = [make_board(model)]

    class Socket(SerialPort):
        """The cable is put into another port while the board starts."""

        unplug_after = 90

        def write(self, line: bytes) -> None:
            Socket.unplug_after -= 1
            if Socket.unplug_after == 0:
                boards[-1].stop()
                boards.append(make_board(model))
                raise OSError("gone")
            super().write(line)

        def reopen(self) -> None:
            self.name = boards[-1].port
            super().reopen()

    device = Device(Socket(boards[0].port))
    remote = board_trainer(device)
    remote.fit(*data, **SMALL_FIT)
    assert len(boards) == 2
    assert "restored" in boards[1].app.boot_message
    assert device.link.reconnections == 1
    assert remote.bake() == expected["model"]
    assert remote.evaluate(*test)["loss"] == expected["loss"]


@pytest.mark.parametrize("restart", [False, True])
def test_resume_after_the_host_has_gone(
    small: bytes, make_board: Callable[..., Board], restart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = patch(small, "all")
    data, test = small_models.separable_samples(40, 1), small_models.separable_samples(20, 2)
    expected = host_result(model, 0, data, test, **SMALL_FIT)
    board = make_board(model)
    remote = connect(board.port)
    steps = iter(range(100))
    end_batch = device_of(remote).end_batch

    def crash(*arguments: Any) -> Any:
        if next(steps) == 8:
            raise RuntimeError("power failure")
        return end_batch(*arguments)

    monkeypatch.setattr(device_of(remote), "end_batch", crash)
    with pytest.raises(RuntimeError):
        remote.fit(*data, **SMALL_FIT)
    if restart:
        board.stop()
        board = make_board(model)
    again = connect(board.port)
    assert device_of(again).hello.progress.steps == (5 if restart else 8)
    with pytest.raises(ZoError, match="nothing of this run"):
        again.fit(*data, resume=True, **(SMALL_FIT | {"epochs": 4}))
    again.fit(*data, resume=True, **SMALL_FIT)
    assert again.bake() == expected["model"]
    assert again.evaluate(*test)["loss"] == expected["loss"]


def test_patience_ends_a_fit(small: bytes, make_board: Callable[..., Board]) -> None:
    board = make_board(patch(small, "exact"))
    x, y = small_models.separable_samples(24, 1)
    history = connect(board.port).fit(x, y, epochs=30, head_lr=0.0, callbacks=[Patience(2)], verbose=False)
    assert history.interrupted
    assert len(history.epochs) == 3


def test_errors_say_what_to_do(small: bytes, make_board: Callable[..., Board], tmp_path: Path) -> None:
    model = patch(small, "exact")
    board = make_board(model, batch_size=4)
    remote = connect(board.port)
    x, y = small_models.separable_samples(24, 1)
    with pytest.raises(ZoError, match="memory for 4 samples"):
        remote.fit(x, y, batch_size=8, verbose=False)
    with pytest.raises(ZoError, match="another model"):
        BoardEngine(device_of(remote), read_patched(patch(small, "head")))
    with pytest.raises(ZoError, match="refused end batch: the batch has no samples"):
        device_of(remote).end_batch(0, 1.0)
    with pytest.raises(ZoError, match="cannot open the port"):
        SerialPort(str(tmp_path / "none"))
    silent = PseudoTerminal()
    with pytest.raises(ZoError, match="has not answered for 1 s"):
        Device(SerialPort(silent.name), patience=1)
    silent.close()
    # A board that lost its session does nothing until it is asked anew.
    link = Link(SerialPort(board.port))
    link.hello()
    other = Link(SerialPort(board.port))
    other.hello()
    with pytest.raises(ZoError, match="neither the next one"):
        link.request(Request.FACTORY_RESET)
    with pytest.raises(BoardRestarted):
        board.stop()
        fresh = make_board(model, batch_size=4)
        other._port = SerialPort(fresh.port)
        other.request(Request.METRICS)
    board.stop()
    (tmp_path / "flash").write_bytes(b"short")
    with pytest.raises(ZoError, match="delete it"):
        make_board(model)


def run_tflm_zo(command: str, *words: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "tflm_zo.cli", command, *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def start_board(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """``tflm-zo virtual-board`` as a program; returns its port."""
    running: list[subprocess.Popen[str]] = []

    def start(*words: str) -> str:
        process = run_tflm_zo("virtual-board", *words, cwd=tmp_path)
        running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("port: "), line + process.stdout.read()
        return line.removeprefix("port: ").strip()

    yield start
    for process in running:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def monitor(cwd: Path, *words: str) -> dict[str, Any]:
    process = run_tflm_zo("monitor", *words, "--quiet", "--json", cwd=cwd)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return json.loads(output.splitlines()[-1])


def test_programs(small: bytes, start_board: Callable[..., str], tmp_path: Path) -> None:
    """The commands of the manual, with a board that is killed and started again in between."""
    model = patch(small, "exact")
    (tmp_path / "model_zo.tflite").write_bytes(model)
    data, test = small_models.separable_samples(40, 1), small_models.separable_samples(30, 2)
    np.savez(tmp_path / "adapt.npz", x=data[0], y=data[1])
    np.savez(tmp_path / "test.npz", x=test[0], y=test[1])
    expected = host_result(model, 3, data, test, epochs=4, verbose=False)
    # By the command's old name.
    killed = run_tflm_zo("simulate", "model_zo.tflite", "--link", "board", cwd=tmp_path)
    deadline = time.monotonic() + 30
    while not (tmp_path / "board").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    words = ["--data", "adapt.npz", "--test", "test.npz", "--epochs", "4", "--seed", "3"]
    found = monitor(tmp_path, "--port", "board", *words, "-o", "adapted.tflite")
    assert found["after_loss"] == expected["loss"]
    assert found["after_accuracy"] == expected["accuracy"]
    assert found["forward_passes"] == expected["passes"]
    assert (tmp_path / "adapted.tflite").read_bytes() == expected["model"]
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()

    port = start_board("model_zo.tflite")
    device = Device(SerialPort(port))
    assert "restored" in device.hello.message
    assert board_trainer(device).bake() == expected["model"]
    # Samples that do not fit the board's model are refused before the board forgets anything.
    np.savez(tmp_path / "wrong.npz", x=data[0][:, :5], y=data[1])
    refused = ["--port", port, "--data", "wrong.npz", "--factory-reset", "-o", "wrong.tflite"]
    process = run_tflm_zo("monitor", *refused, cwd=tmp_path)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "x has samples of shape [5, 8, 1], but the model's input is [8, 8, 1]" in output
    again = monitor(tmp_path, "--port", port, *words, "-o", "again.tflite")
    assert again["before_loss"] == expected["loss"]
    reset = monitor(tmp_path, "--port", port, *words, "--factory-reset", "-o", "reset.tflite")
    assert reset["after_loss"] == expected["loss"]
    assert (tmp_path / "reset.tflite").read_bytes() == expected["model"]


def test_recalibration_by_command(small: bytes, start_board: Callable[..., str], tmp_path: Path) -> None:
    x, y = small_models.separable_samples(40, 1)
    test = small_models.separable_samples(30, 2)
    drifted = 0.6 * x + 0.3
    np.savez(tmp_path / "now.npz", x=drifted)
    np.savez(tmp_path / "adapt.npz", x=drifted, y=y)
    np.savez(tmp_path / "test.npz", x=0.6 * test[0] + 0.3, y=test[1])
    model = patch(small, "exact", adapter=True, reference=x)
    (tmp_path / "model_zo.tflite").write_bytes(model)
    port = start_board("model_zo.tflite")
    words = ["--port", port, "--recalibrate", "-o", "out.tflite"]
    host = TflmTrainer(model, seed=3)
    host.recalibrate(drifted)

    alone = monitor(tmp_path, *words, "--data", "now.npz", "--test", "test.npz", "--passes", "0")
    assert (tmp_path / "out.tflite").read_bytes() == host.bake()
    assert (alone["forward_passes"], alone["recalibration_samples"]) == (0, 40)
    assert alone["after_loss"] == host.evaluate(0.6 * test[0] + 0.3, test[1])["loss"] != alone["before_loss"]
    assert "restored" not in Device(SerialPort(port)).hello.message

    host.fit(drifted, y, epochs=2, verbose=False)
    reset = [*words, "--data", "adapt.npz", "--epochs", "2", "--seed", "3", "--factory-reset"]
    assert monitor(tmp_path, *reset)["forward_passes"] == host.progress.passes
    assert (tmp_path / "out.tflite").read_bytes() == host.bake()

    before = (tmp_path / "model_zo.tflite.flash").read_bytes()
    for more, message in (
        (["--data", "now.npz"], "has no labels y to train with: give --passes 0 to recalibrate only"),
        (["--data", "adapt.npz", "--resume"], "leave out --recalibrate"),
        (["--data", "now.npz", "--passes", "0", "--test", "now.npz"], "has no array y"),
    ):
        process = run_tflm_zo("monitor", *words, *more, "--factory-reset", cwd=tmp_path)
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert message in output
    assert (tmp_path / "model_zo.tflite.flash").read_bytes() == before


@pytest.mark.parametrize(("name", "tilt"), [("gain", np.full(10, 15.0)), ("tilt", np.linspace(-20, 20, 10))])
def test_keyword_spotting_recalibrates(
    shared_data: Path, start_board: Callable[..., str], tmp_path: Path, name: str, tilt: np.ndarray
) -> None:
    """Without labels or training a drift of the channels is undone, but for what was cut off at the codes' ends."""
    original = (shared_data / "mlperf_tiny" / "kws_ref_model.tflite").read_bytes()
    archive = np.load(shared_data / "kws01_dev.npz")
    x, y = archive["x"], archive["y"]
    drifted = np.clip(np.rint(x + tilt[:, None]), -128, 127).astype(np.int8)
    np.savez(tmp_path / "now.npz", x=drifted[:400])
    np.savez(tmp_path / "test.npz", x=drifted[400:], y=y[400:])
    model = patch(original, "exact", adapter=True, reference=x[:400])
    (tmp_path / "model_zo.tflite").write_bytes(model)
    port = start_board("model_zo.tflite")
    words = ["--port", port, "--data", "now.npz", "--test", "test.npz", "--recalibrate", "--passes", "0"]
    found = monitor(tmp_path, *words, "-o", "out.tflite")
    undrifted = TflmTrainer(model).evaluate(x[400:], y[400:])["accuracy"]
    assert found["before_accuracy"] < 0.45
    assert found["after_accuracy"] > undrifted - 0.015
    host = TflmTrainer(model)
    host.recalibrate(drifted[:400])
    assert (tmp_path / "out.tflite").read_bytes() == host.bake()


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "faults"), [(False, True), (True, False)])
def test_keyword_spotting_adapts(
    shared_data: Path, start_board: Callable[..., str], tmp_path: Path, adapter: bool, faults: bool
) -> None:
    """Gain drift: the accuracy and the weights that the host's fit gets, also over a line with faults."""
    original = (shared_data / "mlperf_tiny" / "kws_ref_model.tflite").read_bytes()
    samples = np.load(shared_data / "kws01_dev.npz")
    x = np.clip(samples["x"].astype(np.int16) + 15, -128, 127).astype(np.int8)
    data, test = (x[:400], samples["y"][:400]), (x[400:], samples["y"][400:])
    np.savez(tmp_path / "adapt.npz", x=data[0], y=data[1])
    np.savez(tmp_path / "test.npz", x=test[0], y=test[1])
    model = patch(original, "exact", adapter=adapter)
    (tmp_path / "model_zo.tflite").write_bytes(model)
    expected = host_result(model, 1, data, test, passes=1300, verbose=False)
    port = start_board("model_zo.tflite")
    line = FaultyLine(port, seed=11) if faults else None
    words = ["--data", "adapt.npz", "--test", "test.npz", "--passes", "1300", "--seed", "1", "-o", "adapted.tflite"]
    found = monitor(tmp_path, "--port", port if line is None else line.name, *words)
    if line is not None:
        line.close()
        assert line.done["dropped"] > 10 and line.done["damaged"] > 10
        assert found["repeats"] > 20
    assert found["before_accuracy"] < 0.45
    assert found["after_accuracy"] == expected["accuracy"] > 0.7
    assert found["after_loss"] == expected["loss"]
    assert found["forward_passes"] == expected["passes"]
    assert (tmp_path / "adapted.tflite").read_bytes() == expected["model"]
