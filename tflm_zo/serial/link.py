# SPDX-License-Identifier: Apache-2.0
"""Requests over a line that loses, repeats and changes bytes: each is carried out exactly once, and answered."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Protocol

from tflm_zo.errors import ZoError
from tflm_zo.serial.framing import Decoder, Frame, encode
from tflm_zo.serial.layouts import ANSWER_BIT, AnswerStatus, HelloRequest, Request
from tflm_zo.serial.messages import Hello, unpack_hello, unpack_totals
from tflm_zo.training.engine import EngineRestarted, Position
from tflm_zo.training.step_totals import StepTotals

MAX_ANSWER = 1 << 16

# Seconds until a request is repeated: at first, at most, and while the board says that it is at work.
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 1.0
_WORK_WAIT = 0.25

OnWork = Callable[[StepTotals], None]


class Port(Protocol):
    """What a link needs of a serial port; ``OSError`` means that it is gone."""

    def reopen(self) -> None: ...  # noqa: D102
    def read(self, timeout: float) -> bytes: ...  # noqa: D102
    def write(self, data: bytes) -> None: ...  # noqa: D102


def position_of(hello: Hello) -> Position:
    """Where a board stands by its own account."""
    return Position(hello.progress.run, hello.progress.steps, hello.message)


class BoardRestarted(EngineRestarted):
    """The board has lost its session; ``hello`` says where it stands now. The link has a new session."""

    def __init__(self, hello: Hello) -> None:
        super().__init__("the board started anew while it was in use", position_of(hello))
        self.hello = hello


class Link:
    """One session with a board.

    ``patience``: seconds of silence after which the board is given up; a port that disappears is opened again for
    as long. ``repeats`` and ``reconnections`` count what went wrong and was put right.
    """

    def __init__(self, port: Port, patience: float = 20.0) -> None:
        self._port = port
        self._patience = patience
        self._session = 0
        self._sequence = 0
        self._decoder = Decoder(MAX_ANSWER)
        self._received: list[Frame] = []
        self.repeats = 0
        self.reconnections = 0

    def hello(self) -> Hello:
        """Begin a session. Raises :class:`ZoError` if nobody answers or the port is gone."""
        self._session = secrets.randbits(32)
        try:
            return self._say_hello()
        except OSError as error:
            raise ZoError(f"the port is gone: {error}") from error

    def request(self, kind: Request, payload: bytes = b"", on_work: OnWork | None = None) -> bytes:
        """Have one request carried out and return its answer.

        on_work: told, from time to time, how far a request that takes long has come. Raises :class:`ZoError` with
        the board's own words if it refuses, :class:`BoardRestarted` if it has lost the session.
        """
        self._sequence = (self._sequence + 1) & 0xFFFF
        while True:
            try:
                status, body = self._exchange(Frame(kind, self._sequence, payload), on_work)
            except OSError:
                self._reconnect()
                continue
            if status == AnswerStatus.OK:
                return body
            if status == AnswerStatus.NO_SESSION:
                raise BoardRestarted(self.hello())
            text = body.decode("utf-8", "replace")
            raise ZoError(f"the board refused {kind.name.lower().replace('_', ' ')}: {text}")

    def _say_hello(self) -> Hello:
        # Numbers start anywhere, so that a late frame of an earlier session, from some buffer, is out of sequence.
        sequence = secrets.randbits(16)
        _, body = self._exchange(Frame(Request.HELLO, sequence, bytes(HelloRequest(self._session))), None)
        found = unpack_hello(body)
        if not found.continued:
            self._sequence = sequence
        return found

    def _exchange(self, frame: Frame, on_work: OnWork | None) -> tuple[int, bytes]:
        """Send a frame until it is answered; returns status and body."""
        line = encode(frame)
        wait = _FIRST_WAIT
        heard = time.monotonic()
        self._port.write(line)
        while True:
            answer = self._await_answer(frame, wait)
            now = time.monotonic()
            if answer is None:
                if now - heard > self._patience:
                    raise ZoError(
                        f"the board has not answered for {self._patience:.0f} s: is this its port, and does the "
                        "firmware run?"
                    )
                wait = min(2 * wait, _LONGEST_WAIT)
                self.repeats += 1
                self._port.write(line)
                continue
            status, body = answer
            if status != AnswerStatus.IN_WORK:
                return status, body
            heard, wait = now, _WORK_WAIT
            if on_work is not None:
                on_work(unpack_totals(body))

    def _await_answer(self, frame: Frame, timeout: float) -> tuple[int, bytes] | None:
        deadline = time.monotonic() + timeout
        while True:
            while self._received:
                found = self._received.pop(0)
                # Answers to repeats of earlier requests may still come in.
                if found.type == frame.type | ANSWER_BIT and found.sequence == frame.sequence and found.payload:
                    return found.payload[0], found.payload[1:]
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._received += self._decoder.feed(self._port.read(left))

    def _reconnect(self) -> None:
        """Open the port again and go on with the session.

        Raises :class:`BoardRestarted` if the board does not know it any more, :class:`ZoError` if it stays away.
        """
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._port.reopen()
                self._decoder = Decoder(MAX_ANSWER)
                self._received.clear()
                self.reconnections += 1
                found = self._say_hello()
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ZoError(f"the port has been gone for {self._patience:.0f} s: {error}") from error
                time.sleep(0.2)
        if not found.continued:
            raise BoardRestarted(found)
