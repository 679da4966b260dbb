# SPDX-License-Identifier: Apache-2.0
"""The commands for models: ``convert``, ``realign``, ``patch``, ``bake``, ``inspect``."""

from __future__ import annotations

from typing import Any

import click

from tflm_zo.cli.options import IN_FILE, OUT_FILE, finish, json_option
from tflm_zo.errors import ZoError
from tflm_zo.model.storage import read_model, write_model
from tflm_zo.patching.loss_path import LOSSES
from tflm_zo.realignment.filters import FILTERS, NO_FILTER


@click.command()
@click.argument("model", type=click.Path())
@click.option("--data", required=True, type=IN_FILE, help=".npz with representative x, and y for accuracies.")
@click.option(
    "-o", "--output", required=True, type=OUT_FILE, help="The int8 .tflite to write, or .h, .cc or .cpp for a C array."
)
@json_option
def convert(model: str, data: str, output: str, as_json: bool) -> None:
    """Convert a Keras model (.keras, .h5, or a SavedModel directory) to a full int8 .tflite."""
    from tflm_zo.conversion.accuracy import accuracy_report
    from tflm_zo.conversion.convert import convert as to_int8
    from tflm_zo.model.samples import load_npz_samples
    from tflm_zo.tflm import wheel

    x, y = load_npz_samples(data)
    tflite = to_int8(model, x)
    result: dict[str, Any] = {"model_bytes": len(tflite)}
    click.echo(f"{output}: {len(tflite)} bytes, int8")
    if not wheel.available():
        click.echo("not tried in TFLM, whose Python wheel exists for Linux on x86-64 only")
    if y is not None:
        report = accuracy_report(model, tflite, x, y)
        result |= {"metric": report.metric, "float": report.float_value, "int8": report.int8_value}
        click.echo(str(report))
    write_model(output, tflite)
    finish(as_json, result)


@click.command()
@click.argument("model", type=IN_FILE)
@click.option("--reference", required=True, type=IN_FILE, help=".npz with x from before the drift.")
@click.option("--data", required=True, type=IN_FILE, help=".npz with x from after the drift; y for --filter auto only.")
@click.option("-o", "--output", required=True, type=OUT_FILE, help="The realigned int8 .tflite (or .h, .cc) to write.")
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

    content, before = read_model(model), load_npz_samples(reference)[0]
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
    write_model(output, realigned)
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


@click.command()
@click.argument("model", type=IN_FILE)
@click.option("-o", "--output", required=True, type=OUT_FILE, help="The patched .tflite (or .h, .cc) to write.")
@click.option(
    "--trainable",
    default="exact",
    show_default=True,
    help="head, exact, all, last:K, bias, or layers, separated by commas: names, globs, operators' numbers, conv2d:3 "
    "(the third of its kind), as inspect shows them; LAYER/bias: biases only.",
)
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    default="auto",
    show_default=True,
    help="auto: cross-entropy if the model ends in softmax, sigmoid or a vector of logits (two or more numbers, not as "
    "many as inputs, with a range of 4 or more), else mse; entropy needs no labels.",
)
@click.option("--adapter", is_flag=True, help="Put a trainable gain and offset per input channel in front.")
@click.option("--accumulate", is_flag=True, help="Keep batch gradients: 4 bytes of RAM a trained weight.")
@click.option(
    "--reference", type=IN_FILE, help=".npz with x from before any drift, to recalibrate the adapter by without labels."
)
@click.option("--output-name", "trained_output", help="Name or number of the output to train, of several; see inspect.")
@click.option("--classes", metavar="N|+N", help="More classes: N in all, or +N more, whose samples are still to come.")
@click.option("--class-names", metavar="A,B,...", help="Names of all classes, separated by commas; more make it wider.")
@json_option
def patch(
    model: str,
    output: str,
    *,
    trainable: str,
    loss: str,
    adapter: bool,
    accumulate: bool,
    reference: str | None,
    trained_output: str | None,
    classes: str | None,
    class_names: str | None,
    as_json: bool,
) -> None:
    """Add training ops to an int8 .tflite and put its trainable weights in the arena."""
    from tflm_zo.model.samples import load_npz_samples
    from tflm_zo.patching.patch import patch as add_training
    from tflm_zo.training.inspection import inspect as look

    before = None if reference is None else load_npz_samples(reference)[0]
    patched = add_training(
        read_model(model),
        trainable,
        loss,
        adapter=adapter,
        accumulate=accumulate,
        reference=before,
        output=trained_output,
        classes=classes,
        class_names=None if class_names is None else [name.strip() for name in class_names.split(",")],
    )
    found = look(patched)
    if found.not_run:
        raise ZoError(found.not_run)
    write_model(output, patched)
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


@click.command()
@click.argument("model", type=IN_FILE)
@json_option
def inspect(model: str, as_json: bool) -> None:
    """Show a model's layers with their operators, names and shapes, and what can be done with the model."""
    from tflm_zo.cli.verdicts import layer_table, verdicts
    from tflm_zo.training.inspection import inspect as look

    content = read_model(model)
    found = look(content)
    click.echo(layer_table(found.layers, found.patched))
    if found.patched:
        click.echo(f"loss: {found.loss}")
    if len(found.outputs) > 1:
        click.echo("outputs: " + "; ".join(found.outputs))
    if found.state:
        click.echo(f"state: {found.state}")
    told = verdicts(content, found)
    for verdict in told:
        click.echo(f"{verdict.step + ':':13} {'yes' if verdict.possible else 'no ':3}  {verdict.text}")
    arena = "none" if found.arena_bytes is None else f"{found.arena_bytes} bytes (64-bit host)"
    click.echo(f"model {found.model_bytes} bytes; trainable in RAM {found.ram_bytes} bytes; arena {arena}")
    finish(
        as_json,
        {
            "patched": found.patched,
            "loss": found.loss,
            "ram_bytes": found.ram_bytes,
            "arena_bytes": found.arena_bytes,
            "model_bytes": found.model_bytes,
            "layers": [vars(row) for row in found.layers],
            "outputs": found.outputs,
            "state": found.state,
            "verdicts": {v.step: {"possible": v.possible, "text": v.text} for v in told},
        },
    )


@click.command()
@click.argument("model", type=IN_FILE)
@click.option("--checkpoint", type=IN_FILE, required=True, help="Trained weights, from train.")
@click.option("-o", "--output", required=True, type=OUT_FILE, help="The plain int8 .tflite (or .h, .cc) to write.")
@json_option
def bake(model: str, checkpoint: str, output: str, as_json: bool) -> None:
    """Write trained weights back into a plain int8 .tflite."""
    from tflm_zo.training.trainer import Trainer

    trainer = Trainer(read_model(model))
    trainer.load(checkpoint)
    baked = trainer.bake()
    write_model(output, baked)
    click.echo(f"{output}: {len(baked)} bytes, runs on any TFLite or TFLM")
    finish(as_json, {"model_bytes": len(baked)})
