# SPDX-License-Identifier: Apache-2.0
"""The commands ``train`` and ``eval``."""

from __future__ import annotations

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
from tflm_zo.model.storage import read_model
from tflm_zo.training.engines import ENGINES

if TYPE_CHECKING:
    from tflm_zo.training.trainer import Trainer


@click.command()
@click.argument("model", type=IN_FILE)
@click.option("--data", required=True, type=IN_FILE, help=".npz with x and y to learn from; loss entropy needs no y.")
@click.option("-o", "--output", required=True, type=OUT_FILE, help="The checkpoint to write.")
@click.option("--test", type=IN_FILE, help=".npz with x and y to measure before and after.")
@config_option
@hyperparameter_options
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="auto",
    show_default=True,
    help="What carries the passes out; auto: the simulator where it knows the model, else TFLM. The bits are the same.",
)
@click.option("--arena-size", type=int, help="Bytes; default: as much as the model needs.")
@click.option(
    "--checkpoint", type=IN_FILE, help="Weights to start from: those of an earlier training, on whatever samples."
)
@click.option(
    "--resume", type=IN_FILE, help="A checkpoint of an interrupted training to go on with; same samples and options."
)
@reservoir_option
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def train(
    model: str,
    data: str,
    output: str,
    *,
    test: str | None,
    seed: int,
    engine: str,
    arena_size: int | None,
    checkpoint: str | None,
    resume: str | None,
    reservoir: str | None,
    quiet: bool,
    as_json: bool,
    method: tuple[str, ...],
    **hyperparameters: Any,
) -> None:
    """Train a patched model on labelled samples; writes a checkpoint."""
    from tflm_zo.training.samples import load_npz_for
    from tflm_zo.training.trainer import Trainer

    require_writable(output)
    trainer = Trainer(read_model(model), seed=seed, arena_size=arena_size, engine=engine)
    x, y = load_npz_for(trainer.model, data)
    held_out = load_npz_for(trainer.model, test) if test else None
    earlier = open_reservoir(reservoir, trainer)
    _load(trainer, checkpoint, resume, seed)
    before = trainer.evaluate(*held_out) if held_out else {}
    if method:
        hyperparameters["method"] = methods_by_layer(method)
    history = fit_with_reservoir(trainer, earlier, x, y, resume=bool(resume), verbose=not quiet, **hyperparameters)
    trainer.save(output)
    last = history.epochs[-1] if history.epochs else {}
    result: dict[str, Any] = {"forward_passes": trainer.progress.passes, "interrupted": history.interrupted}
    ending = f"training loss {last['loss']:.4f}" if last else "no epoch was trained"
    click.echo(f"{output}: {trainer.progress.passes} forward passes, {ending}")
    result |= show_fit(history)
    result |= {"layer_executions": history.layer_executions, "saved_executions": history.saved_executions}
    if history.saved_executions:
        together = history.layer_executions + history.saved_executions
        click.echo(
            f"frozen layers ran once a sample: {history.layer_executions} executions of layers instead of {together}"
        )
    if history.interrupted:
        click.echo(f"interrupted; go on with --resume {output} and the same options")
    result |= {f"train_{name}": last[name] for name in ("loss", "accuracy") if name in last}
    if held_out:
        after = trainer.evaluate(*held_out)
        result |= report_scores(before, after)
    finish(as_json, result)


def _load(trainer: Trainer, checkpoint: str | None, resume: str | None, seed: int) -> None:
    """Bring the trainer to where an earlier training has come, if there was one."""
    if checkpoint and resume:
        raise ZoError("--checkpoint starts a training from weights, --resume goes on with one: give one of both")
    path = checkpoint or resume
    if path:
        trainer.load(path)
        given = click.get_current_context().get_parameter_source("seed") != click.core.ParameterSource.DEFAULT
        if given and seed != trainer.seed:
            raise ZoError(f"{path} goes on with its own seed, {trainer.seed}: leave out seed {seed}")


@click.command(name="eval")
@click.argument("model", type=IN_FILE)
@click.option("--data", required=True, type=IN_FILE, help=".npz with x and y.")
@click.option("--checkpoint", type=IN_FILE, help="Trained weights for a patched model.")
@click.option("--output-name", "output", help="Name or number of the output to measure, of several; see inspect.")
@click.option(
    "--keep-state", is_flag=True, help="The samples are a stream: a model's state goes on from one to the next."
)
@json_option
def evaluate(
    model: str, data: str, *, checkpoint: str | None, output: str | None, keep_state: bool, as_json: bool
) -> None:
    """Measure a model, patched or plain, on labelled samples.

    What a plain model carries from pass to pass, such as the state of an LSTM, is reset before each sample.
    """
    from tflm_zo.conversion.evaluate import evaluate_plain
    from tflm_zo.model.file import load_model
    from tflm_zo.model.samples import load_npz
    from tflm_zo.ops.names import is_patched
    from tflm_zo.training.samples import load_npz_for
    from tflm_zo.training.trainer import Trainer

    model_bytes = read_model(model)
    if is_patched(load_model(model_bytes)):
        if output is not None or keep_state:
            raise ZoError(
                f"{model} is patched: it is measured on the output that it trains, and clears its state in each pass; "
                "--output-name and --keep-state are for the baked model"
            )
        trainer = Trainer(model_bytes)
        if checkpoint:
            trainer.load(checkpoint)
        scores = trainer.evaluate(*load_npz_for(trainer.model, data))
    elif checkpoint:
        raise ZoError(f"{model} is not patched: give the patched model that {checkpoint} was made with")
    else:
        scores = evaluate_plain(model_bytes, *load_npz(data), output=output, keep_state=keep_state)
    click.echo(", ".join(f"{name}: {value:.4f}" for name, value in scores.items()))
    finish(as_json, scores)
