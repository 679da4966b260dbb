# SPDX-License-Identifier: Apache-2.0
"""Building and uploading a sketch with ``arduino-cli``, where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from tflm_zo.board.boards import find_board
from tflm_zo.errors import ZoError

PROGRAM = "arduino-cli"
_GET_IT = (
    f"{PROGRAM} is not installed: get it from https://arduino.github.io/arduino-cli/latest/installation/ (or open the "
    "sketch in the Arduino IDE, which needs nothing else)"
)


def build(sketch: str | os.PathLike[str], board: str = "nano33ble") -> None:
    """Compile the sketch folder for a board; what ``arduino-cli`` says goes to the terminal.

    Raises :class:`ZoError` if the folder holds no sketch, ``arduino-cli`` is missing (with where to get it), or the
    build fails.
    """
    _run("compile", *_board_options(board), str(_sketch(sketch)))


def flash(sketch: str | os.PathLike[str], board: str = "nano33ble", port: str | None = None) -> str:
    """Compile and upload the sketch; returns the port that was used.

    port: None for the only board of this kind that is connected. Raises :class:`ZoError` as :func:`build` does, and
    if there is no such board or more than one.
    """
    folder = _sketch(sketch)
    used = port or _only_port(find_board(board).fqbn)
    _run("compile", "--upload", *_board_options(board), "--port", used, str(folder))
    return used


def _board_options(board: str) -> list[str]:
    """The board, and the flash that a sketch may fill: what is for checkpoints is not the sketch's."""
    device = find_board(board)
    return ["--fqbn", device.fqbn, "--build-property", device.size_property]


def _sketch(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder)
    if not (path / f"{path.resolve().name}.ino").is_file():
        raise ZoError(f"{folder} holds no sketch of its name: write one with `tflm-zo export arduino`")
    return path


def _program() -> str:
    program = shutil.which(PROGRAM)
    if program is None:
        raise ZoError(_GET_IT)
    return program


def _run(*arguments: str) -> None:
    command = [_program(), *arguments]
    if subprocess.run(command).returncode != 0:
        raise ZoError(f"{PROGRAM} {' '.join(arguments)} failed: see its messages above")


def _only_port(fqbn: str) -> str:
    result = subprocess.run([_program(), "board", "list", "--format", "json"], capture_output=True, encoding="utf-8")
    try:
        found = json.loads(result.stdout)
    except json.JSONDecodeError:
        found = []
    # Older versions print the list itself, newer ones an object that holds it.
    entries = found.get("detected_ports", []) if isinstance(found, dict) else found or []
    ports = [
        entry["port"]["address"]
        for entry in entries
        if any(board.get("fqbn") == fqbn for board in entry.get("matching_boards", []))
    ]
    if len(ports) != 1:
        which = "no board" if not ports else f"{len(ports)} boards ({', '.join(ports)})"
        raise ZoError(f"found {which} of kind {fqbn}: connect one, or name its port with --port")
    return ports[0]
