# SPDX-License-Identifier: Apache-2.0
"""A serial line between a host and a board that loses, damages and repeats frames."""

from __future__ import annotations

import os
import random
import select
import threading
import tty
from collections import Counter


class FaultyLine:
    """Joins the port ``board`` to a new one, ``name``, and does harm to what passes, in both directions.

    Each of ``dropped``, ``damaged`` and ``repeated`` is the part of the frames it happens to; ``done`` counts them.
    """

    def __init__(
        self, board: str, seed: int, dropped: float = 0.01, damaged: float = 0.01, repeated: float = 0.0
    ) -> None:
        self.done: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._parts = (dropped, damaged, repeated)
        self._board = os.open(board, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._board)
        self._host, self._other = os.openpty()
        tty.setraw(self._other)
        self.name = os.ttyname(self._other)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for line in (self._board, self._host, self._other):
            os.close(line)

    def _run(self) -> None:
        pending = {self._host: b"", self._board: b""}
        while not self._stop.is_set():
            readable, _, _ = select.select(list(pending), [], [], 0.05)
            for line in readable:
                *frames, pending[line] = (pending[line] + os.read(line, 4096)).split(b"\0")
                other = self._board if line == self._host else self._host
                for frame in filter(None, frames):
                    os.write(other, self._harmed(frame))

    def _harmed(self, frame: bytes) -> bytes:
        dropped, damaged, repeated = self._parts
        draw = self._random.random()
        kind = "intact"
        if draw < dropped:
            kind, frame = "dropped", b""
        elif draw < dropped + damaged:
            kind = "damaged"
            at = self._random.randrange(len(frame))
            frame = frame[:at] + bytes([frame[at] ^ self._random.randrange(1, 256)]) + frame[at + 1 :]
        line = b"\0" + frame + b"\0"
        if dropped + damaged <= draw < dropped + damaged + repeated:
            kind, line = "repeated", line * 3
        self.done[kind] += 1
        return line
