# SPDX-License-Identifier: Apache-2.0
"""The ``tflm-zo`` command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tflm_zo import __version__
from tflm_zo.cli.board import add_commands as add_board_commands
from tflm_zo.cli.options import (
    IN_FILE,
    OUT_FILE,
    config_option,
    finish,
    hyperparameter_options,
    json_option,
    methods_by_layer,
    report_scores,
    show_adaptation,
    show_fit,
)
from tflm_zo.cli.search import select, tune
from tflm_zo.cli.serial import monitor, simulate
from tflm_zo.errors import ZoError
from tflm_zo.files import read_bytes, require_writable, write_atomic
from tflm_zo.patching.loss_path import LOSSES
from tflm_zo.realignment.filters import FILTERS, NO_FILTER


class _Command(click.Group):
    """Turns the package's errors into one line and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ZoError as error:
            click.echo(f"tflm-zo: error: {error}", err=True)
            ctx.exit(1)


@click.group(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tflm-zo")
def main() -> None:
    """On-device training for TFLite Micro, with forward passes only."""


@main.command()
@click.argument("model", type=IN_FILE)
@click.option("--data", required=True, type=IN_FILE, help=".npz with representative x, and y for accuracies.")
@click.option("-o", "--output", required=True, type=OUT_FILE, help="The int8 .tflite to write.")
@json_option
def convert(model: str, data: str, output: str, as_json: bool) -> None:
    """Convert a Keras model (.keras, .h5) to a full int8 .tflite."""
    from tflm_zo.conversion.accuracy import accuracy_report
    from tflm_zo.conversion.convert import convert as to_int8
    from tflm_zo.model.samples import load_npz_samples

    x, y = load_npz_samples(data)
    tflite = to_int8(model, x)
    result: dict[str, Any] = {"model_bytes": len(tflite)}
    click.echo(f"{output}: {len(tflite)} bytes, int8")
    if y is not None:
        report = accuracy_report(model, tflite, x, y)
        result |= {"metric": report.metric, "float": report.float_value, "int8": report.int8_value}
        click.echo(str(report))
    write_atomic(output, tflite)
    finish(as_json, result)


@main.command()
@click.argument("model", type=IN_FILE)
@click.option("--reference", required=True, type=IN_FILE, help=".npz with x from before the drift.")
@click.option("--data", required=True, type=IN_FILE, help=".npz with x from after the drift; y for --filter auto only.")
@click.option("-o", "--output", required=True, type=OUT_FILE, help="The realigned int8 .tflite to write.")
@click.option(
    "--filter",
    "filter_name",
    type=click.Choice([NO_FILTER, "auto", *FILTERS]),
    default=NO_FILTER,
    show_default=True,
    help="Put a filter in front, for images; auto: that with the lowest loss on held-out samples, or none.",
)
@json_option
def realign(model: str, reference: str, data: str, output: str, filter_name: str, as_json: bool) -> None:
    """Bring mean and spread of every convolution back to what they were before a drift, without labels."""
    from tflm_zo.model.samples import load_npz, load_npz_samples
    from tflm_zo.realignment.realign import realign as bring_back
    from tflm_zo.tuning.filter_choice import choose_filter

    content, before = read_bytes(model), load_npz_samples(reference)[0]
    result: dict[str, Any] = {}
    if filter_name == "auto":
        after, labels = load_npz(data)
        losses = choose_filter(content, before, after, labels)
        filter_name = next(iter(losses))
        result["losses"] = losses
        click.echo("held-out loss by filter: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
    else:
        after = load_npz_samples(data)[0]
    realigned = bring_back(content, before, after, filter_name)
    write_atomic(output, realigned)
    click.echo(
        f"{output}: realigned on {len(after)} samples, filter {filter_name}; train it with `tflm-zo patch` and "
        "`tflm-zo train`"
    )
    result |= {
        "filter": filter_name,
        "samples": len(after),
        "reference_samples": len(before),
        "model_bytes": len(realigned),
    }
    finish(as_json, result)


@main.command()
@click.argument("model", type=IN_FILE)
@click.option("--reference", type=IN_FILE, help=".npz with x from before the drift, such as the representative data.")
@click.option(
    "--data", required=True, type=IN_FILE, help=".npz with x from after the drift, and y if there are labels."
)
@click.option("-o", "--output", required=True, type=OUT_FILE, help="The adapted int8 .tflite to write.")
@click.option("--test", type=IN_FILE, help=".npz with x and y to measure before and after.")
@click.option("--epochs", default=20, show_default=True, help="Times the samples are trained on.")
@click.option("--passes", type=int, help="At most this many forward passes of training.")
@click.option("--loss", type=click.Choice(LOSSES), default="auto", show_default=True, help="As for `patch`.")
@click.option("--seed", default=0, show_default=True)
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def adapt(
    model: str,
    reference: str | None,
    data: str,
    output: str,
    test: str | None,
    epochs: int,
    passes: int | None,
    loss: str,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Adapt an int8 .tflite to a drift: prepare it by statistics, train it, bake it.

    Statistics of samples from before the drift (--reference) and after it (--data) choose the preparation; with labels
    the model is then trained. What samples show to be worse is not kept.
    """
    from tflm_zo.adaptation.adapt import adapt as adapt_model
    from tflm_zo.model.samples import load_npz, load_npz_samples
    from tflm_zo.tflm.evaluate import evaluate_plain

    require_writable(output)
    content = read_bytes(model)
    x, y = load_npz_samples(data)
    before = load_npz_samples(reference)[0] if reference else None
    held_out = load_npz(test) if test else None
    scores = evaluate_plain(content, *held_out) if held_out else {}
    found = adapt_model(content, x, y, before, epochs=epochs, passes=passes, loss=loss, seed=seed, verbose=not quiet)
    write_atomic(output, found.model)
    show_adaptation(found)
    click.echo(f"{output}: {len(found.model)} bytes, {found.passes} forward passes of training")
    result = found.as_dict()
    if held_out:
        result |= report_scores(scores, evaluate_plain(found.model, *held_out))
    finish(as_json, result)


@main.command()
@click.argument("model", type=IN_FILE)
@click.option("-o", "--output", required=True, type=OUT_FILE, help="The patched .tflite to write.")
@click.option(
    "--trainable",
    default="exact",
    show_default=True,
    help="head, exact, all, last:K, bias, or layer names and globs, separated by commas; NAME/bias: biases only.",
)
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    default="auto",
    show_default=True,
    help="auto: cross-entropy if the model ends in softmax or sigmoid, else mse; entropy needs no labels.",
)
@click.option("--adapter", is_flag=True, help="Put a trainable gain and offset per input channel in front.")
@click.option("--accumulate", is_flag=True, help="Keep batch gradients: 4 bytes of RAM a trained weight.")
@click.option(
    "--reference", type=IN_FILE, help=".npz with x from before any drift, to recalibrate the adapter by without labels."
)
@json_option
def patch(
    model: str,
    output: str,
    trainable: str,
    loss: str,
    adapter: bool,
    accumulate: bool,
    reference: str | None,
    as_json: bool,
) -> None:
    """Add training ops to an int8 .tflite and put its trainable weights in the arena."""
    from tflm_zo.model.samples import load_npz_samples
    from tflm_zo.patching.patch import patch as add_training
    from tflm_zo.training.inspection import inspect as look

    before = None if reference is None else load_npz_samples(reference)[0]
    patched = add_training(read_bytes(model), trainable, loss, adapter=adapter, accumulate=accumulate, reference=before)
    found = look(patched)
    write_atomic(output, patched)
    trained = [row for row in found.layers if row.ram_bytes]
    click.echo(
        f"{output}: {len(trained)} of {len(found.layers)} layers trainable, loss {found.loss}, "
        f"{found.ram_bytes} bytes of weights in RAM, arena {found.arena_bytes} bytes"
    )
    finish(
        as_json,
        {
            "trainable": [row.name for row in trained],
            "loss": found.loss,
            "ram_bytes": found.ram_bytes,
            "arena_bytes": found.arena_bytes,
            "model_bytes": found.model_bytes,
        },
    )


@main.command()
@click.argument("model", type=IN_FILE)
@json_option
def inspect(model: str, as_json: bool) -> None:
    """Show a model's layers, what is trainable, and the memory it takes."""
    from tflm_zo.training.inspection import inspect as look

    found = look(read_bytes(model))
    width = max((len(row.name) for row in found.layers), default=5)
    click.echo(f"{'layer':{width}}  {'type':17}  {'weights':>8}  {'bias':>6}  {'in RAM':>8}  trained by")
    for row in found.layers:
        click.echo(
            f"{row.name:{width}}  {row.kind:17}  {row.weight_bytes:8}  {row.bias_bytes:6}  "
            f"{row.ram_bytes:8}  {row.method}"
        )
    if found.patched:
        click.echo(f"loss: {found.loss}")
    click.echo(
        f"model {found.model_bytes} bytes; trainable in RAM {found.ram_bytes} bytes; "
        f"arena {found.arena_bytes} bytes (64-bit host)"
    )
    finish(
        as_json,
        {
            "patched": found.patched,
            "loss": found.loss,
            "ram_bytes": found.ram_bytes,
            "arena_bytes": found.arena_bytes,
            "model_bytes": found.model_bytes,
            "layers": [vars(row) for row in found.layers],
        },
    )


@main.command()
@click.argument("model", type=IN_FILE)
@click.option("--data", required=True, type=IN_FILE, help=".npz with x and y to learn from; loss entropy needs no y.")
@click.option("-o", "--output", required=True, type=OUT_FILE, help="The checkpoint to write.")
@click.option("--test", type=IN_FILE, help=".npz with x and y to measure before and after.")
@config_option
@hyperparameter_options
@click.option("--arena-size", type=int, help="Bytes; default: as much as the model needs.")
@click.option("--resume", type=IN_FILE, help="A checkpoint of an interrupted training to go on from.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def train(
    model: str,
    data: str,
    output: str,
    test: str | None,
    seed: int,
    arena_size: int | None,
    resume: str | None,
    quiet: bool,
    as_json: bool,
    method: tuple[str, ...],
    **hyperparameters: Any,
) -> None:
    """Train a patched model on labelled samples inside TFLM; writes a checkpoint."""
    from tflm_zo.training.samples import load_npz_for
    from tflm_zo.training.trainer import Trainer

    require_writable(output)
    trainer = Trainer(read_bytes(model), seed=seed, arena_size=arena_size)
    x, y = load_npz_for(trainer.model, data)
    held_out = load_npz_for(trainer.model, test) if test else None
    if resume:
        trainer.load(resume)
        given = click.get_current_context().get_parameter_source("seed") != click.core.ParameterSource.DEFAULT
        if given and seed != trainer.seed:
            raise ZoError(f"{resume} goes on with its own seed, {trainer.seed}: leave out seed {seed}")
    before = trainer.evaluate(*held_out) if held_out else {}
    if method:
        hyperparameters["method"] = methods_by_layer(method)
    history = trainer.fit(x, y, resume=bool(resume), verbose=not quiet, **hyperparameters)
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


@main.command(name="eval")
@click.argument("model", type=IN_FILE)
@click.option("--data", required=True, type=IN_FILE, help=".npz with x and y.")
@click.option("--checkpoint", type=IN_FILE, help="Trained weights for a patched model.")
@json_option
def evaluate(model: str, data: str, checkpoint: str | None, as_json: bool) -> None:
    """Measure a model, patched or plain, on labelled samples."""
    from tflm_zo.model.file import load_model
    from tflm_zo.model.samples import load_npz
    from tflm_zo.ops.names import is_patched
    from tflm_zo.tflm.evaluate import evaluate_plain
    from tflm_zo.training.samples import load_npz_for
    from tflm_zo.training.trainer import Trainer

    model_bytes = read_bytes(model)
    if is_patched(load_model(model_bytes)):
        trainer = Trainer(model_bytes)
        if checkpoint:
            trainer.load(checkpoint)
        scores = trainer.evaluate(*load_npz_for(trainer.model, data))
    elif checkpoint:
        raise ZoError(f"{model} is not patched: give the patched model that {checkpoint} was made with")
    else:
        scores = evaluate_plain(model_bytes, *load_npz(data))
    click.echo(", ".join(f"{name}: {value:.4f}" for name, value in scores.items()))
    finish(as_json, scores)


@main.command()
@click.argument("model", type=IN_FILE)
@click.option("--checkpoint", type=IN_FILE, required=True, help="Trained weights, from train.")
@click.option("-o", "--output", required=True, type=OUT_FILE, help="The plain int8 .tflite to write.")
@json_option
def bake(model: str, checkpoint: str, output: str, as_json: bool) -> None:
    """Write trained weights back into a plain int8 .tflite."""
    from tflm_zo.training.trainer import Trainer

    trainer = Trainer(read_bytes(model))
    trainer.load(checkpoint)
    baked = trainer.bake()
    write_atomic(output, baked)
    click.echo(f"{output}: {len(baked)} bytes, runs on any TFLite or TFLM")
    finish(as_json, {"model_bytes": len(baked)})


@main.command()
@click.option("-o", "--output", default="demo_out", show_default=True, help="Folder for picture and models.")
@click.option("--seed", default=0, show_default=True)
@json_option
def demo(output: str, seed: int, as_json: bool) -> None:
    """Digits that drift: convert, patch, train in TFLM, bake, compare with back-propagation."""
    from tflm_zo.demo.run import run_demo

    result = run_demo(Path(output), seed, show=lambda line: click.echo(line))
    finish(as_json, result)


add_board_commands(main)
main.add_command(simulate)
main.add_command(monitor)
main.add_command(select)
main.add_command(tune)
