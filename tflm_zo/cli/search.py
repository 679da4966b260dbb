# SPDX-License-Identifier: Apache-2.0
"""The commands ``select`` and ``tune``."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tflm_zo.board.boards import board_names
from tflm_zo.cli.config_file import write_config
from tflm_zo.cli.options import IN_FILE, OUT_FILE, finish, hyperparameter_options, json_option, methods_by_layer
from tflm_zo.files import require_writable
from tflm_zo.model.storage import read_model

if TYPE_CHECKING:
    from tflm_zo.training.folds import Score
    from tflm_zo.tuning.layer_selection import Selection
    from tflm_zo.tuning.tune import Tuned


_JOBS = click.option("--jobs", type=int, help="Trainings side by side; default: as many as there are processors.")
_FOLDS = click.option("--folds", default=3, show_default=True, help="Parts of the samples, each held out once.")


class _Bytes(click.ParamType):
    """A size in bytes, with K or M for 1024 and 1024 * 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+)([KM]?)B?", str(value).strip().upper())
        if match is None:
            self.fail(f"{value!r} is not a size such as 65536, 256K or 1M", param, ctx)
        return int(match[1]) * {"": 1, "K": 1024, "M": 1024 * 1024}[match[2]]


@click.command()
@click.argument("model", type=IN_FILE)
@click.option("--data", required=True, type=IN_FILE, help=".npz with x and y to learn from and to judge by.")
@click.option("--ram", type=_Bytes(), help="RAM there is, such as 256K; default: the board's.")
@click.option("--flash", type=_Bytes(), help="Flash there is, such as 1M; default: the board's.")
@click.option(
    "--board", type=click.Choice(board_names()), default="nano33ble", show_default=True, help="The board to plan for."
)
@click.option(
    "--loss",
    type=click.Choice(("auto", "cross-entropy", "mse")),
    default="auto",
    show_default=True,
    help="auto: what the labels say of a model without softmax or sigmoid at its end, else as for `patch`.",
)
@click.option("--passes", default=5000, show_default=True, help="Forward passes of each training.")
@_FOLDS
@click.option("--seed", default=0, show_default=True)
@_JOBS
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def select(
    model: str, data: str, *, board: str, loss: str, jobs: int | None, quiet: bool, as_json: bool, **search: int
) -> None:
    """Find the layers of an int8 MODEL that are worth training on samples, and fit the board's memory.

    Ranks layers by what training them takes off the loss of held-out samples, per byte of RAM and per forward pass,
    in short trainings in the simulator, and prints the patch command for the best set.
    """
    from tflm_zo.model.file import load_model
    from tflm_zo.model.samples import load_npz
    from tflm_zo.ops.names import is_patched
    from tflm_zo.tuning.layer_selection import select_layers
    from tflm_zo.tuning.workers import usable_processors

    content = read_model(model)
    x, y = load_npz(data)
    jobs = usable_processors() if jobs is None else jobs
    found = select_layers(content, x, y, board=board, loss=loss, jobs=jobs, verbose=not quiet, **search)
    click.echo(_layer_table(found))
    click.echo("lower loss: on held-out samples, than without the layer; ± standard error; RAM in bytes")
    scores = _show_held_out(found)
    command = ""
    if not found.trainable:
        click.echo("\nno training lowers the loss of held-out samples by more than its standard error")
    else:
        click.echo(
            f"\non {board}: {found.ram} bytes of RAM (of {found.ram_limit}), {found.flash} of flash "
            f"(of {found.flash_limit})"
        )
        plain = model
        if is_patched(load_model(content)):
            plain = "ORIGINAL.tflite"
            click.echo(f"ORIGINAL.tflite is what {model} was patched from")
        adapter = " --adapter" if found.adapter else ""
        wanted = "" if found.loss == "auto" else f" --loss {found.loss}"
        command = f"tflm-zo patch {shlex.quote(plain)} --trainable {shlex.quote(found.trainable)}{adapter}{wanted}"
        command += " -o model_zo.tflite"
        click.echo(f"next: {command}")
    finish(as_json, _selection_result(found, command, scores))


def _show_held_out(found: Selection) -> dict[str, dict[str, float]]:
    """Print the scores on held-out samples, and return them by what was trained."""
    rows = [("untrained", found.untrained), ("patch's default", found.default), ("chosen", found.chosen)]
    click.echo(f"\n{'held-out samples':26}{'loss':>8}{'  accuracy' if found.chosen.hits is not None else ''}")
    scores = {name: _scores(score) for name, score in rows if score is not None}
    for name, values in scores.items():
        click.echo(f"  {name:24}{values['loss']:8.4f}{_accuracy(values)}")
    return scores


def _selection_result(found: Selection, command: str, scores: dict[str, dict[str, float]]) -> dict[str, Any]:
    return {
        "trainable": found.trainable,
        "adapter": found.adapter,
        "loss": found.loss,
        "command": command,
        "scores": scores,
        "ram_bytes": [found.ram, found.ram_limit],
        "flash_bytes": [found.flash, found.flash_limit],
        "sets_trained": found.sets,
        "layers": [
            asdict(row) | {"gain_per_kilobyte": row.gain_per_kilobyte, "gain_per_1000_passes": row.gain_per_1000_passes}
            for row in found.layers
        ],
    }


def _layer_table(found: Selection) -> str:
    width = max(len(row.name) for row in found.layers)
    lines = [
        f"{'layer':{width}}  {'type':17}  {'trained by':10}  {'RAM':>7}  {'|g|/|w|':>18}  {'lower loss':>17}  "
        f"{'per KB':>8}  {'per 1000 passes':>15}  verdict"
    ]
    for row in found.layers:
        gradient = f"{row.gradient.value:.3g}" if row.gradient else ""
        if row.gradient and row.gradient.error:
            gradient += f" ± {row.gradient.error:.2g}"
        gain = per_kilobyte = per_passes = ""
        if row.gain is not None:
            gain = f"{row.gain:.4f} ± {row.gain_error:.4f}"
            per_kilobyte, per_passes = f"{row.gain_per_kilobyte:.4f}", f"{row.gain_per_1000_passes:.4f}"
        lines.append(
            f"{row.name:{width}}  {row.kind:17}  {row.method:10}  {row.ram:7}  {gradient:>18}  {gain:>17}  "
            f"{per_kilobyte:>8}  {per_passes:>15}  {row.verdict}"
        )
    return "\n".join(lines)


def _scores(score: Score) -> dict[str, float]:
    return {"loss": score.loss} | ({} if score.accuracy is None else {"accuracy": score.accuracy})


@click.command()
@click.argument("model", type=IN_FILE)
@click.option("--data", required=True, type=IN_FILE, help=".npz with x and y to learn from and to judge by.")
@click.option("-o", "--output", required=True, type=OUT_FILE, help="The JSON file of hyperparameters to write.")
@click.option("--trials", default=40, show_default=True, help="Trials in all, those of earlier runs included.")
@_FOLDS
@_JOBS
@click.option("--study", type=OUT_FILE, help="File of the search, to go on from; default: OUTPUT.study.")
@hyperparameter_options
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def tune(
    model: str,
    data: str,
    output: str,
    *,
    trials: int,
    folds: int,
    jobs: int | None,
    study: str | None,
    passes: int | None,
    seed: int,
    method: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    **hyperparameters: Any,
) -> None:
    """Search the hyperparameters with which a patched MODEL learns best from samples.

    Each trial trains in the simulator, with at most --passes forward passes (default: 20000), and is scored on
    samples held out of its training; the first has the defaults. Hyperparameters that are given as options are not
    searched. Where TFLM is, the best is trained in it too, which must give the same weights. The same command goes on
    with a search that was broken off, and with a larger --trials carries it further.
    """
    from tflm_zo.model.samples import load_npz
    from tflm_zo.tuning.tune import PASSES
    from tflm_zo.tuning.tune import tune as search
    from tflm_zo.tuning.workers import usable_processors

    require_writable(output)
    x, y = load_npz(data)
    tuned = search(
        read_model(model),
        x,
        y,
        study or f"{output}.study",
        trials=trials,
        passes=PASSES if passes is None else passes,
        folds=folds,
        seed=seed,
        jobs=usable_processors() if jobs is None else jobs,
        fixed=_given(hyperparameters, method),
        verbose=not quiet,
    )
    write_config(output, tuned.hyperparameters)
    _show_search(tuned, output)
    command = f"tflm-zo train {shlex.quote(model)} --data {shlex.quote(data)} --config {shlex.quote(output)}"
    click.echo(f"next: {command} -o trained.ckpt")
    finish(as_json, asdict(tuned))


def _given(hyperparameters: dict[str, Any], method: tuple[str, ...]) -> dict[str, Any]:
    """The hyperparameters that were given as options: these are not searched."""
    context = click.get_current_context()
    given = {
        name: value
        for name, value in hyperparameters.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    return given | ({"method": methods_by_layer(method)} if method else {})


def _show_search(tuned: Tuned, output: str) -> None:
    click.echo(f"{tuned.trials} trials, {tuned.pruned} of them given up early; searched: {', '.join(tuned.searched)}")
    click.echo(f"{'':26}{'loss':>8}{'  accuracy' if 'accuracy' in tuned.best else ''}")
    for name, scores in (
        ("held out, defaults", tuned.defaults),
        (f"held out, trial {tuned.best_trial}", tuned.best),
        ("trained on all samples", tuned.trained),
    ):
        click.echo(f"{name:26}{scores['loss']:8.4f}{_accuracy(scores)}")
    if tuned.best_trial == 0:
        click.echo("no trial was better than the defaults")
    changed = {k: v for k, v in tuned.hyperparameters.items() if k in tuned.searched}
    click.echo(f"{output}: {', '.join(f'{k} {_number(v)}' for k, v in changed.items()) or 'the defaults'}")
    if tuned.confirmed:
        click.echo(f"TFLM gives the same weights, to the bit, after {tuned.passes} passes")
    else:
        click.echo(f"{tuned.passes} passes; not confirmed in TFLM, whose Python wheel exists for Linux on x86-64 only")


def _accuracy(scores: dict[str, float]) -> str:
    return f"{100 * scores['accuracy']:8.1f} %" if "accuracy" in scores else ""


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
