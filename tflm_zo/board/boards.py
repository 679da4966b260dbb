# SPDX-License-Identifier: Apache-2.0
"""The boards that memory is planned for."""

from __future__ import annotations

from dataclasses import dataclass

from tflm_zo.errors import ZoError


@dataclass(frozen=True)
class Board:
    """``ram`` and ``flash`` in bytes; of these the board's core takes ``core_ram`` and ``core_flash`` (boot loader
    included) before the sketch gets any, and ``stack`` for the main thread. ``fqbn`` is the name for
    ``arduino-cli``."""

    name: str
    title: str
    fqbn: str
    ram: int
    flash: int
    core_ram: int
    core_flash: int
    stack: int


_BOARDS = {
    "nano33ble": Board(
        name="nano33ble",
        title="Arduino Nano 33 BLE (nRF52840)",
        fqbn="arduino:mbed_nano:nano33ble",
        ram=256 * 1024,
        flash=1024 * 1024,
        # An empty sketch of the core arduino:mbed_nano takes 44 KB of RAM, the main thread's stack of 32 KB among
        # them, and 84 KB of flash; the boot loader has the first 64 KB of flash.
        core_ram=12 * 1024,
        core_flash=(64 + 84) * 1024,
        stack=32 * 1024,
    ),
}


def board_names() -> list[str]:
    """Return the names that :func:`find_board` knows."""
    return sorted(_BOARDS)


def find_board(name: str) -> Board:
    """Return a board; raises :class:`ZoError` listing the names if there is none of that name."""
    if name not in _BOARDS:
        raise ZoError(f"unknown board {name!r}: choose one of {', '.join(board_names())}")
    return _BOARDS[name]
