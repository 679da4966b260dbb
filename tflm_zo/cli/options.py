# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from tflm_zo.cli.config_file import read_config
from tflm_zo.files import require_writable
from tflm_zo.training.declaration import Codes, OneOf, Switch, Whole, declarations, option_name
from tflm_zo.training.hyperparameters import REMOVED, Hyperparameters, check_names
from tflm_zo.training.watch import explain

if TYPE_CHECKING:
    import numpy as np

    from tflm_zo.training.history import History
    from tflm_zo.training.reservoir import Reservoir
    from tflm_zo.training.trainer import Trainer

IN_FILE = click.Path(dir_okay=False)
OUT_FILE = click.Path(dir_okay=False, writable=True)


def hyperparameter_option(name: str) -> Callable[[Callable], Callable]:
    """The option of a hyperparameter of :class:`Hyperparameters`, as it is declared there."""
    default, declaration = next((d, told) for n, d, told in declarations(Hyperparameters) if n == name)
    allowed, flag = declaration.range, option_name(name, declaration)
    told = declaration.text
    if isinstance(allowed, Switch):
        return click.option(flag, default=default, show_default=True, help=told)
    if isinstance(allowed, OneOf):
        if declaration.by_layer:
            metavar = f"[LAYER=]{name.upper()}"
            told = f"{told} May be repeated; default: {default}."
            return click.option(flag, multiple=True, metavar=metavar, help=told)
        return click.option(flag, type=click.Choice(allowed.names), default=default, show_default=True, help=told)
    unit = f"in {declaration.unit}; " if declaration.unit else ""
    told = f"{told.rstrip('.')} ({unit}{allowed})."
    # Numbers out of range are refused where all hyperparameters are, whichever way they come.
    kind = int if isinstance(allowed, (Whole, Codes)) else float
    shown = declaration.none if default is None else True
    return click.option(flag, type=kind, default=default, show_default=shown, help=told)


def hyperparameter_options(command: Callable) -> Callable:
    """Give a command the options of :class:`~tflm_zo.training.hyperparameters.Hyperparameters`, and ``--seed``."""
    command = click.option("--seed", default=0, show_default=True)(command)
    for name in REMOVED:
        command = _removed_option(name)(command)
    for name, _, _ in reversed(list(declarations(Hyperparameters))):
        command = hyperparameter_option(name)(command)
    return command


def _removed_option(name: str) -> Callable[[Callable], Callable]:
    """An option that there was once, for an error that says what to do instead."""

    def refuse(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            check_names([name])

    return click.option(f"--{name.replace('_', '-')}", hidden=True, expose_value=False, callback=refuse)


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


def reservoir_option(command: Callable) -> Callable:
    """Give a command ``--reservoir``."""
    return click.option(
        "--reservoir",
        type=OUT_FILE,
        help=".npz of a few earlier samples of each class, to train on, too; made, and brought up to date afterwards.",
    )(command)


def open_reservoir(path: str | None, trainer: Trainer) -> Reservoir | None:
    """Read the reservoir of ``--reservoir``, if that is given."""
    from tflm_zo.training.reservoir import Reservoir

    if path is None:
        return None
    require_writable(path)
    return Reservoir(path, trainer.model)


def fit_with_reservoir(
    trainer: Trainer, reservoir: Reservoir | None, x: np.ndarray, y: np.ndarray | None, **options: Any
) -> History:
    """Train on samples and those of a reservoir, which is brought up to date if the training comes to its end."""
    if reservoir is None:
        return trainer.fit(x, y, **options)
    history = trainer.fit(*reservoir.with_samples(x, y), **options)
    if not history.interrupted:
        reservoir.save()
    return history


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
    return {"rates": vars(rates), "guard": vars(guard), "missing_classes": list(history.missing_classes)}


def _shown(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if name == "accuracy" else f"{value:.4f}"


def methods_by_layer(options: tuple[str, ...]) -> str | dict[str, str]:
    """``--method nodes`` is for all layers, ``--method conv2d=nodes`` for the layers so named."""
    pairs = [option.rsplit("=", 1) for option in options]
    if len(pairs) == 1 and len(pairs[0]) == 1:
        return pairs[0][0]
    return {pair[0] if len(pair) == 2 else "*": pair[-1] for pair in pairs}
