# SPDX-License-Identifier: Apache-2.0
"""What frames carry: requests of the host and the board's answers.

Their layouts are those of ``micro_app/src/app/message_layouts.h``; ``docs/protocol.md`` tells what they do.
"""

from __future__ import annotations

import ctypes
from typing import Any, TypeVar

from tflm_zo.errors import ZoError
from tflm_zo.ops.native import Structure
from tflm_zo.ops.step import Group
from tflm_zo.serial import layouts
from tflm_zo.serial.layouts import MESSAGE_VERSION, GroupFields, HelloAnswer, ScheduleRequest, TrainerStatus
from tflm_zo.serial.layouts import Request as Request
from tflm_zo.training.step_totals import StepTotals

_Message = TypeVar("_Message", bound=Structure)


class Hello(HelloAnswer):
    """What a board is and where it stands, as in the answer to a hello. Sizes in bytes; ``boot_checkpoint`` is the
    number of the checkpoint that it loaded when it started (0: none), ``message`` says so in words."""

    message: str = ""

    @property
    def model_runs(self) -> bool:
        """Whether the board's model can be used."""
        return self.model_status == TrainerStatus.OK


def unpack(kind: type[_Message], body: bytes) -> _Message:
    """Return the message at the beginning of an answer. Raises :class:`ZoError` if the answer is shorter."""
    if len(body) < ctypes.sizeof(kind):
        raise ZoError("the board's answer is too short: host and firmware are of different versions")
    return kind.from_buffer_copy(body)


def unpack_hello(body: bytes) -> Hello:
    """Return the answer to a hello. Raises :class:`ZoError` if the firmware is of another version."""
    # The version is first in every version; the rest of another one may be shorter.
    version = HelloAnswer.from_buffer_copy(body.ljust(ctypes.sizeof(HelloAnswer), b"\0")).version
    if version != MESSAGE_VERSION:
        raise ZoError(
            f"the board's firmware speaks version {version} of the protocol, this tflm-zo version {MESSAGE_VERSION}: "
            "export and flash it again"
        )
    hello = unpack(Hello, body)
    hello.message = body[ctypes.sizeof(Hello) :].decode("utf-8", "replace")
    return hello


def unpack_totals(body: bytes) -> StepTotals:
    """Return the totals of a step: the answer to END_BATCH, and that of a request in work."""
    return StepTotals(*unpack(layouts.StepTotals, body))


def pack_schedule(*, run: int, step: int, seed: int, groups: list[Group], batch: int, **settings: Any) -> bytes:
    """Return the payload of SET_SCHEDULE; ``settings``: antithetic, exact, head_rate and accumulate."""
    request = ScheduleRequest(
        run=run, step=step, largest_batch=batch, seed=seed & 0xFFFFFFFF, group_count=len(groups), **settings
    )
    fields = (GroupFields(mode=g.mode, queries=g.queries, first=g.first, last=g.last) for g in groups)
    return bytes(request) + b"".join(map(bytes, fields))
