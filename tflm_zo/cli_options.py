# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from tflm_zo.config import read_config
from tflm_zo.masks import MASKS
from tflm_zo.recipe import LR_SCHEDULES, SCALINGS, Hyperparameters

_HYPERPARAMETERS = [
    click.option(
        "--epochs", default=Hyperparameters.epochs, show_default=True, help="Times the samples are gone through."
    ),
    click.option("--passes", type=int, help="At most this many forward passes."),
    click.option("--batch-size", default=Hyperparameters.batch_size, show_default=True),
    click.option(
        "--lr-end",
        default=Hyperparameters.lr_end,
        show_default=True,
        help="Part of all learning rates left at the end.",
    ),
    click.option(
        "--lr-schedule",
        default=Hyperparameters.lr_schedule,
        show_default=True,
        type=click.Choice(LR_SCHEDULES),
        help="How learning rates fall.",
    ),
    click.option(
        "--method",
        multiple=True,
        metavar="[GLOB=]METHOD",
        help="exact, weights, nodes, frozen or auto, for all layers or those of a name; may be repeated.",
    ),
    click.option(
        "--queries", default=Hyperparameters.queries, show_default=True, help="Directions a step or sample, and layer."
    ),
    click.option(
        "--antithetic/--forward-difference", default=Hyperparameters.antithetic, help="Two-sided or one-sided losses."
    ),
    click.option(
        "--layerwise/--all-at-once", default=Hyperparameters.layerwise, help="Perturb layer by layer, or all layers."
    ),
    click.option("--head-lr", type=float, help="Rate of the exact layers; default: found from the samples."),
    click.option(
        "--adapter-lr", default=Hyperparameters.adapter_lr, show_default=True, help="Step of the input adapter."
    ),
    click.option(
        "--adapter-sigma",
        default=Hyperparameters.adapter_sigma,
        show_default=True,
        help="Perturbation of gains, codes.",
    ),
    click.option(
        "--adapter-bias-sigma",
        default=Hyperparameters.adapter_bias_sigma,
        show_default=True,
        help="Perturbation of offsets, in 1/32 input codes.",
    ),
    click.option("--lr", type=float, help="Rate of weight perturbation; default: 3e-6, for lone biases 3e-3."),
    click.option(
        "--sigma", default=Hyperparameters.sigma, show_default=True, help="Perturbation of weights, in codes."
    ),
    click.option(
        "--bias-sigma", default=Hyperparameters.bias_sigma, show_default=True, help="Perturbation of biases, in codes."
    ),
    click.option("--node-lr", default=Hyperparameters.node_lr, show_default=True, help="Rate of node perturbation."),
    click.option(
        "--node-sigma", default=Hyperparameters.node_sigma, show_default=True, help="Perturbation of outputs, in codes."
    ),
    click.option(
        "--node-block",
        default=Hyperparameters.node_block,
        show_default=True,
        help="Side of blocks that share a sign; 0: all.",
    ),
    click.option(
        "--mask", default=Hyperparameters.mask, show_default=True, type=click.Choice(MASKS), help="What --keep keeps."
    ),
    click.option(
        "--keep", default=Hyperparameters.keep, show_default=True, help="Fraction that is perturbed and updated."
    ),
    click.option(
        "--gradient-scaling",
        default=Hyperparameters.gradient_scaling,
        show_default=True,
        type=click.Choice(SCALINGS),
        help="Scale rates down by the dimension that is perturbed.",
    ),
    click.option("--seed", default=0, show_default=True),
]


def hyperparameter_options(command: Callable) -> Callable:
    """Give a command the options of :class:`~tflm_zo.recipe.Hyperparameters`, and ``--seed``."""
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
        type=click.Path(dir_okay=False),
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


def _shown(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if name == "accuracy" else f"{value:.4f}"


def methods_by_layer(options: tuple[str, ...]) -> str | dict[str, str]:
    """``--method nodes`` is for all layers, ``--method conv2d=nodes`` for those the glob matches."""
    pairs = [option.rsplit("=", 1) for option in options]
    if len(pairs) == 1 and len(pairs[0]) == 1:
        return pairs[0][0]
    return {pair[0] if len(pair) == 2 else "*": pair[-1] for pair in pairs}
