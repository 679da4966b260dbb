# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from tflm_zo.cli.config_file import read_config
from tflm_zo.training.hyperparameters import LR_SCHEDULES, SCALINGS, Hyperparameters
from tflm_zo.training.masks import MASKS
from tflm_zo.training.watch import explain

if TYPE_CHECKING:
    from tflm_zo.training.history import History

IN_FILE = click.Path(dir_okay=False)
OUT_FILE = click.Path(dir_okay=False, writable=True)


def _option(name: str, text: str, choices: Sequence[str] | None = None) -> Callable[[Callable], Callable]:
    """An option ``--name`` for the hyperparameter of that name, with its default."""
    default = getattr(Hyperparameters, name.removeprefix("--").replace("-", "_"))
    return click.option(
        name, default=default, show_default=True, help=text, type=None if choices is None else click.Choice(choices)
    )


_HYPERPARAMETERS: list[Callable[[Callable], Callable]] = [
    _option("--epochs", "Times the samples are gone through."),
    click.option("--passes", type=int, help="At most this many forward passes."),
    _option("--batch-size", "Samples of a step."),
    _option("--lr-end", "Part of all learning rates left at the end."),
    _option("--lr-schedule", "How learning rates fall.", LR_SCHEDULES),
    click.option(
        "--method",
        multiple=True,
        metavar="[GLOB=]METHOD",
        help="exact, weights, nodes, frozen or auto, for all layers or those of a name; may be repeated.",
    ),
    _option("--queries", "Directions a step or sample, and layer."),
    click.option(
        "--antithetic/--forward-difference", default=Hyperparameters.antithetic, help="Two-sided or one-sided losses."
    ),
    click.option(
        "--layerwise/--all-at-once", default=Hyperparameters.layerwise, help="Perturb layer by layer, or all layers."
    ),
    click.option("--head-lr", type=float, help="Rate of the exact layers; default: found from the samples."),
    _option("--adapter-lr", "Step of the input adapter."),
    _option("--adapter-sigma", "Perturbation of gains, codes."),
    _option("--adapter-bias-sigma", "Perturbation of offsets, in 1/32 input codes."),
    click.option("--lr", type=float, help="Rate of weight perturbation; default: found from the samples."),
    _option("--sigma", "Perturbation of weights, in codes."),
    _option("--bias-sigma", "Perturbation of biases, in codes."),
    click.option("--node-lr", type=float, help="Rate of node perturbation; default: found from the samples."),
    _option("--exact-lr-scale", "Multiplies the rates found for the exact layers."),
    _option("--lr-scale", "Multiplies the rates found for weight and node perturbation."),
    click.option(
        "--holdout",
        type=float,
        help="Part of the samples that tells whether training helps; 0: none; default: by their number.",
    ),
    _option("--node-sigma", "Perturbation of outputs, in codes."),
    _option("--node-block", "Side of blocks that share a sign; 0: all."),
    _option("--mask", "What --keep keeps.", MASKS),
    _option("--keep", "Fraction that is perturbed and updated."),
    _option("--gradient-scaling", "Scale rates down by the dimension that is perturbed.", SCALINGS),
    click.option("--seed", default=0, show_default=True),
]


def hyperparameter_options(command: Callable) -> Callable:
    """Give a command the options of :class:`~tflm_zo.training.hyperparameters.Hyperparameters`, and ``--seed``."""
    for option in reversed(_HYPERPARAMETERS):
        command = option(command)
    return command


def config_option(command: Callable) -> Callable:
    """Give a command with hyperparameter options ``--config``: a file with other defaults for them."""

    def read(context: click.Context, parameter: click.Parameter, path: str | None) -> None:
        if path is None:
            return
        values = {name: value for name, value in read_config(path).items() if value is not None}
        if "method" in values:
            method = values["method"]
            values["method"] = [f"{k}={v}" for k, v in method.items()] if isinstance(method, dict) else [method]
        context.default_map = {**(context.default_map or {}), **values}

    # Eager: before the options whose defaults it gives.
    return click.option(
        "--config",
        type=IN_FILE,
        is_eager=True,
        expose_value=False,
        callback=read,
        help="JSON file of hyperparameters, as `tune` writes it; options given here count more.",
    )(command)


def json_option(command: Callable) -> Callable:
    """Give a command ``--json``, as its parameter ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="End with one JSON object.")(command)


def finish(as_json: bool, result: dict[str, Any]) -> None:
    """End a command: with ``--json`` the last line of output is its result."""
    if as_json:
        click.echo(json.dumps(result))


def report_scores(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Print test scores before and after training, and return them as parts of a command's result."""
    for name, value in after.items():
        click.echo(f"test {name}: {_shown(name, before[name])} before, {_shown(name, value)} after")
    return {f"before_{k}": v for k, v in before.items()} | {f"after_{k}": v for k, v in after.items()}


def show_fit(history: History) -> dict[str, Any]:
    """Print what learning rates a fit had and what its guard did, and return both as parts of a command's result."""
    rates, guard = history.rates, history.guard
    found = [("head", rates.head), ("layers before the head", rates.closed if rates.closed != rates.head else None)]
    shown = [f"{name} {rate:.3g}" for name, rate in found if rate]
    for name, values in (("weights", rates.parameters), ("nodes", rates.nodes)):
        if values:
            shown.append(f"{name} {min(values.values()):.3g} to {max(values.values()):.3g}")
    if shown:
        click.echo(f"learning rates: {', '.join(shown)}")
    click.echo(explain(guard))
    return {"rates": vars(rates), "guard": vars(guard)}


def _shown(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if name == "accuracy" else f"{value:.4f}"


def methods_by_layer(options: tuple[str, ...]) -> str | dict[str, str]:
    """``--method nodes`` is for all layers, ``--method conv2d=nodes`` for those the glob matches."""
    pairs = [option.rsplit("=", 1) for option in options]
    if len(pairs) == 1 and len(pairs[0]) == 1:
        return pairs[0][0]
    return {pair[0] if len(pair) == 2 else "*": pair[-1] for pair in pairs}
