# SPDX-License-Identifier: Apache-2.0
"""The commands ``monitor`` and ``virtual-board``."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tflm_zo.cli.options import (
    IN_FILE,
    OUT_FILE,
    config_option,
    finish,
    fit_with_reservoir,
    hyperparameter_options,
    json_option,
    methods_by_layer,
    open_reservoir,
    report_scores,
    reservoir_option,
    show_fit,
)
from tflm_zo.errors import ZoError
from tflm_zo.files import require_writable
from tflm_zo.model.storage import read_model, write_model

if TYPE_CHECKING:
    import numpy as np

    from tflm_zo.serial.device import Device
    from tflm_zo.serial.link import Link
    from tflm_zo.training.history import History
    from tflm_zo.training.trainer import Trainer

_LEDS = ("idle", "running the model", "training", "saving a checkpoint", "refused a request")


@click.command()
@click.argument("model", type=IN_FILE)
@click.option("--flash", type=OUT_FILE, help="File of the checkpoints; default: the model's name with .flash.")
@click.option("--batch-size", default=64, show_default=True, help="Samples that there is memory for.")
@click.option("--link", type=click.Path(), help="Also make a symbolic link of this name to the port.")
def virtual_board(model: str, flash: str | None, batch_size: int, link: str | None) -> None:
    """Be a board that runs the patched MODEL, behind a pseudo-terminal; ends with Ctrl-C.

    The same app as on a board, with TFLM's Python wheel as its engine. What it has saved in its flash file is
    there again when it is started the next time.
    """
    if os.name == "nt":
        raise ZoError("Windows has no pseudo-terminals, which a virtual board is behind: use Linux or macOS")
    from tflm_zo.serial.virtual_board import HostApp, PseudoTerminal

    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stopped.append(number))
    terminal = PseudoTerminal()
    flash_path = flash or f"{model}.flash"
    shown: list[int] = [0]

    def show(led: int) -> None:
        # Between the passes of a training the LED changes too often to be told of.
        if led != shown[0] and led in (3, 4):
            click.echo(_LEDS[led])
        shown[0] = led

    with HostApp(read_model(model), terminal.line, flash_path, batch_size, show) as app:
        if link:
            Path(link).unlink(missing_ok=True)
            Path(link).symlink_to(terminal.name)
        click.echo(f"port: {terminal.name}")
        click.echo(f"flash: {flash_path}; {app.boot_message}")
        app.serve(lambda: bool(stopped))
    if link:
        with contextlib.suppress(OSError):
            Path(link).unlink()
    terminal.close()


@click.command()
@click.option("--port", required=True, help="Serial port of the board, such as /dev/ttyACM0 or COM3.")
@click.option("--data", required=True, type=IN_FILE, help=".npz with x and y to learn from; loss entropy needs no y.")
@click.option(
    "-o", "--output", required=True, type=OUT_FILE, help="The plain int8 .tflite (or .h, .cc) with the adapted weights."
)
@click.option("--test", type=IN_FILE, help=".npz with x and y to measure before and after.")
@click.option(
    "--recalibrate", is_flag=True, help="First undo a drift of the input's channels by x alone; --passes 0: only that."
)
@config_option
@hyperparameter_options
@click.option("--patience", type=int, help="End after so many epochs without a lower training loss.")
@click.option("--factory-reset", is_flag=True, help="Start from the exported weights; removes the checkpoints.")
@click.option("--resume", is_flag=True, help="Go on with the run that the board is in; same data and options.")
@reservoir_option
@click.option("--checkpoints/--no-checkpoints", default=True, help="Save in the board's flash after each epoch.")
@click.option("--timeout", default=20.0, show_default=True, help="Seconds without an answer until it is given up.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def monitor(
    port: str,
    data: str,
    output: str,
    *,
    test: str | None,
    recalibrate: bool,
    seed: int,
    method: tuple[str, ...],
    patience: int | None,
    factory_reset: bool,
    resume: bool,
    reservoir: str | None,
    checkpoints: bool,
    timeout: float,
    quiet: bool,
    as_json: bool,
    **hyperparameters: Any,
) -> None:
    """Train or recalibrate the model on a board with samples from this machine, and bake the result.

    Ctrl-C ends the training after the batch in work; what was learned until then is saved and baked.
    """
    from tflm_zo.model.samples import load_npz_samples
    from tflm_zo.training.patience import Patience
    from tflm_zo.training.samples import load_npz_for

    require_writable(output)
    if method:
        hyperparameters["method"] = methods_by_layer(method)
    if recalibrate and resume:
        raise ZoError("a run that is resumed goes on as it was: leave out --recalibrate")
    trains = not (recalibrate and hyperparameters["passes"] == 0)
    device = _connect(port, timeout)
    trainer = _trainer_of(device, seed, checkpoints)
    x, y = load_npz_samples(data) if recalibrate else load_npz_for(trainer.model, data)
    held_out = load_npz_for(trainer.model, test) if test else None
    earlier = open_reservoir(reservoir if trains else None, trainer)
    # Before anything is changed on the board.
    if recalibrate:
        _require_recalibration(trainer, x, f"{data} has no labels y" if trains and y is None else "")
    _require_fitting(trainer, [*([(x, y)] if trains else []), *([held_out] if held_out else [])])
    if factory_reset:
        trainer.reset()
    before = trainer.evaluate(*held_out) if held_out else {}
    history = None
    if recalibrate:
        # A fit begins with a checkpoint of its own.
        trainer.engine.recalibrate(trainer.recalibration_codes(x)) if trains else trainer.recalibrate(x)
        click.echo(f"recalibrated by {len(x)} samples")
    if trains:
        hyperparameters["callbacks"] = [] if patience is None else [Patience(patience)]
        history = fit_with_reservoir(trainer, earlier, x, y, verbose=not quiet, resume=resume, **hyperparameters)
    baked = trainer.bake()
    write_model(output, baked)
    click.echo(f"{output}: {len(baked)} bytes, runs on any TFLite or TFLM")
    result = _show_run(trainer, device.link, history, {"recalibration_samples": len(x)} if recalibrate else {})
    if held_out:
        result |= report_scores(before, trainer.evaluate(*held_out))
    finish(as_json, result)


def _connect(port: str, timeout: float) -> Device:
    """Find the board behind ``port``, and print what it is."""
    from tflm_zo.serial.device import Device
    from tflm_zo.serial.port import SerialPort

    device = Device(SerialPort(port), timeout)
    click.echo(f"{port}: {device.hello.message}")
    return device


def _trainer_of(device: Device, seed: int, checkpoints: bool) -> Trainer:
    """A trainer of the board, with the model that it runs."""
    from tflm_zo.patching.patched_model import read_patched
    from tflm_zo.serial.board_engine import BoardEngine
    from tflm_zo.training.trainer import Trainer

    model = read_patched(device.read_model())
    return Trainer(model.data, seed, engine=BoardEngine(device, model, checkpoints))


def _require_recalibration(trainer: Trainer, x: np.ndarray, unlabelled: str) -> None:
    """Raise :class:`ZoError` if the board cannot be recalibrated by ``x``, or trained after it without labels."""
    trainer.recalibration_codes(x)
    if unlabelled and trainer.model.loss.needs_labels:
        raise ZoError(f"{unlabelled} to train with: give --passes 0 to recalibrate only")


def _require_fitting(trainer: Trainer, samples: list[tuple[np.ndarray, np.ndarray | None]]) -> None:
    """Raise :class:`ZoError` if samples and labels do not fit the board's model."""
    from tflm_zo.training.samples import sample_codes

    for x, y in samples:
        sample_codes(x, y, trainer.model)


def _show_run(trainer: Trainer, link: Link, history: History | None, recalibration: dict[str, int]) -> dict[str, Any]:
    """Print how a training on the board (None: there was none) went, and return the command's result."""
    result: dict[str, Any] = {
        "forward_passes": trainer.progress.passes,
        "interrupted": history is not None and history.interrupted,
        "repeats": link.repeats,
        "reconnections": link.reconnections,
    }
    result |= recalibration
    if history is not None:
        result |= show_fit(history)
        if history.epochs:
            last = history.epochs[-1]
            click.echo(f"{trainer.progress.passes} forward passes, training loss {last['loss']:.4f}")
            result |= {f"train_{name}": last[name] for name in ("loss", "accuracy") if name in last}
    executions = trainer.engine.executions()
    result["layer_executions"], result["saved_executions"] = executions.done, executions.saved
    return result
