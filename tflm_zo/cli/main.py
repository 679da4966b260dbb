# SPDX-License-Identifier: Apache-2.0
"""The ``tflm-zo`` command."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tflm_zo import __version__
from tflm_zo.cli.adaptation import adapt
from tflm_zo.cli.board import build, export, flash, plan
from tflm_zo.cli.models import bake, convert, inspect, patch, realign
from tflm_zo.cli.options import finish, json_option
from tflm_zo.cli.search import select, tune
from tflm_zo.cli.serial import monitor, virtual_board
from tflm_zo.cli.training import evaluate, train
from tflm_zo.errors import DataWarning, ZoError


class _Command(click.Group):
    """Turns the package's errors into one line and exit status 1, its warnings into one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _data_warnings_in_a_line():
                return super().invoke(ctx)
        except ZoError as error:
            click.echo(f"tflm-zo: error: {error}", err=True)
            ctx.exit(1)


@contextlib.contextmanager
def _data_warnings_in_a_line() -> Iterator[None]:
    """What is told of samples and labels, each once, without the place in the code that it comes from."""
    told: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, DataWarning):
                others(message, category, *where, **more)
            elif str(message) not in told:
                told.add(str(message))
                click.echo(f"tflm-zo: warning: {message}", err=True)

        warnings.showwarning = show
        yield


@click.group(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tflm-zo")
def main() -> None:
    """On-device training for TFLite Micro, with forward passes only."""


@click.command()
@click.option("-o", "--output", default="demo_out", show_default=True, help="Folder for picture and models.")
@click.option("--seed", default=0, show_default=True)
@json_option
def demo(output: str, seed: int, as_json: bool) -> None:
    """Digits that drift: convert, patch, train in TFLM, bake, compare with back-propagation."""
    from tflm_zo.demo.run import run_demo

    result = run_demo(Path(output), seed, show=lambda line: click.echo(line))
    finish(as_json, result)


for _command in (
    adapt, bake, build, convert, demo, evaluate, export, flash, inspect, monitor, patch, plan, realign, select,
    train, tune, virtual_board,
):  # fmt: skip
    main.add_command(_command)

# The name that the command had at first; it was taken for what tflm_zo/simulator/ does.
_simulate = copy.copy(virtual_board)
_simulate.hidden = True
main.add_command(_simulate, "simulate")
