# SPDX-License-Identifier: Apache-2.0
"""The boards that memory is planned for."""

from __future__ import annotations

from dataclasses import dataclass

from tflm_zo.board.layouts import NANO33_BLE_CHECKPOINT_BYTES, NANO33_BLE_FLASH_BYTES
from tflm_zo.errors import ZoError


@dataclass(frozen=True)
class Board:
    """``ram`` and ``flash`` in bytes, and what of them no sketch gets.

    RAM: ``core_ram`` for the static variables of the board's core, ``stack`` for the main thread, ``heap`` for what
    the core allocates and for interrupts. Flash: ``boot_loader``, ``core_flash``, and ``checkpoints`` at its end, in
    two slots. ``fqbn`` is the name for ``arduino-cli``, ``core_title`` that of its core in the IDE.
    """

    name: str
    title: str
    fqbn: str
    core_title: str
    ram: int
    flash: int
    core_ram: int
    stack: int
    heap: int
    core_flash: int
    boot_loader: int
    checkpoints: int

    @property
    def sketch_flash(self) -> int:
        """Bytes of flash that a sketch and the core in it may take."""
        return self.flash - self.boot_loader - self.checkpoints

    @property
    def size_property(self) -> str:
        """The build property that makes ``arduino-cli`` refuse a sketch that reaches into the checkpoints."""
        return f"upload.maximum_size={self.sketch_flash}"


_BOARDS = {
    "nano33ble": Board(
        name="nano33ble",
        title="Arduino Nano 33 BLE (nRF52840)",
        fqbn="arduino:mbed_nano:nano33ble",
        core_title="Arduino Mbed OS Nano Boards",
        ram=256 * 1024,
        flash=NANO33_BLE_FLASH_BYTES,
        # arduino-cli says of an empty sketch for arduino:mbed_nano: 85328 bytes of program, 44552 of variables. Of
        # these the main thread's stack is 32768; interrupt vectors and crash data take another 512.
        core_ram=44_552 - 32 * 1024 + 512,
        stack=32 * 1024,
        # 1 KB is the interrupts' stack; the rest leaves room for the thread and the pins that the core allocates.
        heap=3 * 1024,
        core_flash=85_328,
        boot_loader=64 * 1024,
        checkpoints=NANO33_BLE_CHECKPOINT_BYTES,
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
