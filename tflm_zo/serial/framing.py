# SPDX-License-Identifier: Apache-2.0
"""Frames on a serial line: either a frame arrives as it was sent, or it does not arrive.

The twin of ``micro_app/src/app/framing.h``; ``docs/protocol.md`` is the specification.
On the line::

    0x00  COBS(header | payload | CRC-32)  0x00

COBS: Cheshire and Baker, "Consistent Overhead Byte Stuffing", IEEE/ACM Transactions on Networking
7(2), 1999. CRC-32: IEEE 802.3, as in zlib.
"""

from __future__ import annotations

import enum
import zlib
from collections import Counter
from dataclasses import dataclass

from tflm_zo.errors import ZoError
from tflm_zo.serial.layouts import (
    FRAME_CRC_SIZE,
    FRAME_HEADER_SIZE,
    FRAME_OVERHEAD,
    FRAME_VERSION,
    LONGEST_RUN,
    FrameHeader,
)

OVERHEAD = FRAME_OVERHEAD
"""Bytes of header and CRC around a payload."""


@dataclass(frozen=True)
class Frame:
    """One message: ``type`` 0..255, ``sequence`` 0..65535, ``payload`` any bytes."""

    type: int
    sequence: int
    payload: bytes = b""


class Rejection(enum.Enum):
    """Why the decoder dropped something."""

    MALFORMED = "malformed"
    """Cut short, or sizes that do not fit together."""
    TOO_LONG = "too long"
    """Longer than the decoder's greatest payload allows."""
    CHECKSUM = "checksum"
    """Damaged."""
    VERSION = "version"
    """Intact, but of another protocol version: host and board do not belong together."""


def encode(frame: Frame) -> bytes:
    """Return what ``frame`` is on the line, with a delimiter on both sides.

    Raises :class:`ZoError` if ``type`` does not fit into 8 bits or ``sequence`` into 16.
    """
    if not 0 <= frame.type <= 0xFF:
        raise ZoError(f"frame type {frame.type} is outside 0..255")
    if not 0 <= frame.sequence <= 0xFFFF:
        raise ZoError(f"frame sequence {frame.sequence} is outside 0..65535; count modulo 65536")
    header = FrameHeader(FRAME_VERSION, frame.type, frame.sequence, len(frame.payload))
    checked = bytes(header) + frame.payload
    return b"\0" + _stuff(checked + zlib.crc32(checked).to_bytes(FRAME_CRC_SIZE, "little")) + b"\0"


class Decoder:
    """Takes a line apart, whatever pieces it comes in.

    ``max_payload`` is the greatest payload in bytes that is accepted; it bounds the memory in use.
    ``rejected`` counts what was dropped, by :class:`Rejection`.
    """

    def __init__(self, max_payload: int) -> None:
        self.rejected: Counter[Rejection] = Counter()
        self._max_payload = max_payload
        # COBS adds one byte to every 254, and one.
        longest = max_payload + OVERHEAD
        self._max_stuffed = longest + longest // LONGEST_RUN + 1
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the line and return the frames that they complete."""
        return [event for event in self.events(data) if isinstance(event, Frame)]

    def events(self, data: bytes) -> list[Frame | Rejection]:
        """Like :meth:`feed`, with what was dropped in between, in the order of the line."""
        events: list[Frame | Rejection] = []
        *finished, rest = data.split(b"\0")
        for piece in finished:
            self._append(piece)
            if self._pending:
                event = self._finish(bytes(self._pending))
                if isinstance(event, Rejection):
                    self.rejected[event] += 1
                events.append(event)
            self._pending.clear()
        self._append(rest)
        return events

    def _append(self, piece: bytes) -> None:
        # One byte more than a frame can have is enough to know that it is too long.
        self._pending += piece[: self._max_stuffed + 1 - len(self._pending)]

    def _finish(self, stuffed: bytes) -> Frame | Rejection:
        # An over-long frame counts as such even if it is damaged too: most of it was not kept.
        if len(stuffed) > self._max_stuffed:
            return Rejection.TOO_LONG
        content, complete = _unstuff(stuffed)
        if len(content) > self._max_payload + OVERHEAD:
            return Rejection.TOO_LONG
        if not complete or len(content) < OVERHEAD:
            return Rejection.MALFORMED
        checked = content[:-FRAME_CRC_SIZE]
        if zlib.crc32(checked) != int.from_bytes(content[-FRAME_CRC_SIZE:], "little"):
            return Rejection.CHECKSUM
        # Only the place of the version and of the CRC is the same in every protocol version.
        header = FrameHeader.from_buffer_copy(checked)
        if header.version != FRAME_VERSION:
            return Rejection.VERSION
        payload = checked[FRAME_HEADER_SIZE:]
        if header.payload_size != len(payload):
            return Rejection.MALFORMED
        return Frame(header.type, header.sequence, payload)


def _stuff(content: bytes) -> bytes:
    """COBS: ``content`` without zero bytes. ``content`` must not be empty."""
    out = bytearray()
    runs = content.split(b"\0")
    for index, run in enumerate(runs):
        # A run of the greatest length stands for itself alone, a shorter one also for a zero.
        while len(run) > LONGEST_RUN:
            out.append(LONGEST_RUN + 1)
            out += run[:LONGEST_RUN]
            run = run[LONGEST_RUN:]
        out.append(len(run) + 1)
        out += run
        if len(run) == LONGEST_RUN and index != len(runs) - 1:
            out.append(1)
    return bytes(out)


def _unstuff(stuffed: bytes) -> tuple[bytes, bool]:
    """Undo :func:`_stuff`; the second value is false if the last block was cut short."""
    out = bytearray()
    at = 0
    zero_pending = False
    while at < len(stuffed):
        if zero_pending:
            out.append(0)
        code = stuffed[at]
        block = stuffed[at + 1 : at + code]
        out += block
        if len(block) != code - 1:
            return bytes(out), False
        at += code
        zero_pending = code != LONGEST_RUN + 1
    return bytes(out), True
