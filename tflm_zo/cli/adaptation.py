# SPDX-License-Identifier: Apache-2.0
"""The command ``adapt``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tflm_zo.cli.options import IN_FILE, OUT_FILE, finish, hyperparameter_option, json_option, report_scores
from tflm_zo.files import require_writable
from tflm_zo.model.storage import read_model, write_model
from tflm_zo.patching.loss_path import LOSSES

if TYPE_CHECKING:
    from tflm_zo.adaptation.adapt import Adaptation


@click.command()
@click.argument("model", type=IN_FILE)
@click.option("--reference", type=IN_FILE, help=".npz with x from before the drift, such as the representative data.")
@click.option(
    "--data", required=True, type=IN_FILE, help=".npz with x from after the drift, and y if there are labels."
)
@click.option("-o", "--output", required=True, type=OUT_FILE, help="The adapted int8 .tflite (or .h, .cc) to write.")
@click.option("--test", type=IN_FILE, help=".npz with x and y to measure before and after.")
@hyperparameter_option("epochs")
@hyperparameter_option("passes")
@click.option("--loss", type=click.Choice(LOSSES), default="auto", show_default=True, help="As for `patch`.")
@click.option("--seed", default=0, show_default=True)
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def adapt(
    model: str,
    reference: str | None,
    data: str,
    output: str,
    *,
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
    from tflm_zo.conversion.evaluate import evaluate_plain
    from tflm_zo.model.samples import load_npz, load_npz_samples

    require_writable(output)
    content = read_model(model)
    x, y = load_npz_samples(data)
    before = load_npz_samples(reference)[0] if reference else None
    held_out = load_npz(test) if test else None
    scores = evaluate_plain(content, *held_out) if held_out else {}
    found = adapt_model(content, x, y, before, epochs=epochs, passes=passes, loss=loss, seed=seed, verbose=not quiet)
    write_model(output, found.model)
    _show_adaptation(found)
    click.echo(f"{output}: {len(found.model)} bytes, {found.passes} forward passes of training")
    result = found.as_dict()
    if held_out:
        result |= report_scores(scores, evaluate_plain(found.model, *held_out))
    finish(as_json, result)


def _show_adaptation(found: Adaptation) -> None:
    """Print what was tried to adapt a model, what was chosen and why, as one table."""
    width = max([len(row.chain.name) for row in found.rows] + [11])
    if found.rows:
        click.echo(f"{'preparation':{width}}  {'error':>7}  {'accuracy':>8}  {'nats':>6}")
    for row in found.rows:
        values = [
            _column(row.error, 7, 4),
            _column(None if row.accuracy is None else 100 * row.accuracy, 6, 1, " %"),
            _column(row.information, 6, 2),
        ]
        chosen = "  <- chosen" if row is found.chosen else "  (after a short training)" if row.trained else ""
        click.echo(f"{row.chain.name:{width}}  {'  '.join(values)}{chosen}")
    click.echo(f"prepared: {found.chain.name} ({found.preparation})")
    click.echo(found.training)


def _column(value: float | None, width: int, digits: int, unit: str = "") -> str:
    return f"{value:{width}.{digits}f}{unit}" if value is not None else " " * (width + len(unit))
