# SPDX-License-Identifier: Apache-2.0
"""The commands for boards: ``export``, ``plan``, ``build``, ``flash``."""

from __future__ import annotations

import click

from tflm_zo.board.arduino import DEFAULT_EXAMPLE
from tflm_zo.board.boards import board_names
from tflm_zo.cli.options import IN_FILE, OUT_FILE, finish, json_option
from tflm_zo.model.storage import read_model

_MODEL = click.argument("model", type=IN_FILE)
_BOARD = click.option(
    "--board", type=click.Choice(board_names()), default="nano33ble", show_default=True, help="The board."
)
_LIBRARY = click.option(
    "--tflm-library",
    type=click.Choice(["chirale", "arduino-examples", "tree"]),
    default="chirale",
    show_default=True,
    help="Arduino library of TFLM: from the Library Manager, from GitHub, or made from a current TFLM.",
)
_BATCH = click.option(
    "--batch-size", default=16, show_default=True, help="The most samples of a training step on the board."
)


@click.group()
def export() -> None:
    """Write what a board is built from."""


@export.command(name="arduino")
@_MODEL
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder of the sketch.")
@_BOARD
@_LIBRARY
@_BATCH
@click.option("--example", default=DEFAULT_EXAMPLE, show_default=True, help="The program that the sketch is made of.")
@click.option("--force", is_flag=True, help="Export a model that does not fit the board, too.")
@json_option
def export_arduino(
    model: str,
    output: str,
    *,
    board: str,
    tflm_library: str,
    batch_size: int,
    example: str,
    force: bool,
    as_json: bool,
) -> None:
    """Write an Arduino sketch that runs and trains a patched model."""
    from tflm_zo.board.arduino import export_sketch

    done = export_sketch(
        read_model(model),
        output,
        board=board,
        tflm_library=tflm_library,
        batch_size=batch_size,
        example=example,
        force=force,
    )
    if done.replaced:
        click.echo(f"computed by other layers, to the same codes, since {tflm_library} knows these otherwise or not:")
        for name in done.replaced:
            click.echo(f"  {name}")
    click.echo(
        f"{output}: {len(done.files)} files, model {done.model_bytes} bytes, arena {done.arena_bytes} bytes, "
        f"ops {', '.join(done.ops)}"
    )
    click.echo(f"next: tflm-zo build {output} --board {board} (README.md there has the commands of arduino-cli)")
    finish(
        as_json,
        {
            "files": done.files,
            "model_bytes": done.model_bytes,
            "arena_bytes": done.arena_bytes,
            "batch_bytes": done.batch_bytes,
            "ops": done.ops,
            "replaced": done.replaced,
        },
    )


@export.command(name="arduino-library")
@click.argument("model", required=False, type=IN_FILE)
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder of the library.")
@_LIBRARY
@_BATCH
@json_option
def export_arduino_library(model: str | None, output: str, tflm_library: str, batch_size: int, as_json: bool) -> None:
    """Write the ops and the app as an Arduino library, for sketches of your own; with MODEL, examples too."""
    from tflm_zo.board.arduino import export_library

    data = None if model is None else read_model(model)
    files = export_library(output, data, tflm_library=tflm_library, batch_size=batch_size)
    click.echo(f"{output}: {len(files)} files; put the folder into the libraries folder of your sketchbook")
    finish(as_json, {"files": files})


@click.command()
@_MODEL
@_BOARD
@_LIBRARY
@_BATCH
@click.option("--picture", type=OUT_FILE, help="A .png to write (needs matplotlib).")
@json_option
def plan(model: str, board: str, tflm_library: str, batch_size: int, picture: str | None, as_json: bool) -> None:
    """Show a model's RAM and flash against a board's; exit status 1 if it does not fit.

    A patched model is counted with the sketch that trains it, any other for inference alone.
    """
    from tflm_zo.board.memory_plan import plan_memory
    from tflm_zo.board.plan_report import plan_picture, plan_text

    result = plan_memory(read_model(model), board, tflm_library=tflm_library, batch_size=batch_size)
    click.echo(plan_text(result))
    if picture:
        plan_picture(result, picture)
        click.echo(f"picture: {picture}")
    finish(
        as_json,
        {
            "fits": result.fits,
            "arena_bytes": result.arena_bytes,
            "arena_used_bytes": result.arena.used,
            "ram": {share.name: share.size for share in result.ram},
            "flash": {share.name: share.size for share in result.flash},
            "ram_bytes": [result.ram_used, result.board.ram],
            "flash_bytes": [result.flash_used, result.board.flash],
            "layers": result.layers,
            "advice": result.advice,
        },
    )
    if not result.fits:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("sketch", type=click.Path(file_okay=False))
@_BOARD
def build(sketch: str, board: str) -> None:
    """Compile a sketch with arduino-cli."""
    from tflm_zo.board.arduino_cli import build as compile_sketch

    compile_sketch(sketch, board)


@click.command()
@click.argument("sketch", type=click.Path(file_okay=False))
@_BOARD
@click.option("--port", help="Serial port; default: of the only such board that is connected.")
def flash(sketch: str, board: str, port: str | None) -> None:
    """Compile a sketch and upload it with arduino-cli."""
    from tflm_zo.board.arduino_cli import flash as upload

    click.echo(f"uploaded to {upload(sketch, board, port)}")
