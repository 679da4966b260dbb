# SPDX-License-Identifier: Apache-2.0
"""The command that every pass is given and the report that it ends with; ``kernels/session.h`` explains them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tflm_zo.ops.layouts import COMMAND_MAGIC, Action, Command, Report

INITIALISE, LOSS, MEASURE = Action.INITIALISE, Action.LOSS, Action.MEASURE

COMMAND_DTYPE: np.dtype = np.dtype(Command)
REPORT_DTYPE: np.dtype = np.dtype(Report)


def make_command(actions: int = 0, **fields: Any) -> np.ndarray:
    """Return a command (int32[20]) for one pass; ``fields``: those of the command that are not 0."""
    command = Command(magic=COMMAND_MAGIC, actions=actions, **fields)
    return np.frombuffer(bytes(command), dtype=np.int32).copy()


def read_report(words: np.ndarray) -> Report:
    """Return the report that a pass left in the output tensor ``words`` (int32[8])."""
    return Report.from_buffer_copy(words.tobytes())


def report_words(**fields: Any) -> np.ndarray:
    """Return a report as the output tensor has it (int32[8]); ``fields``: those that are not 0."""
    return np.frombuffer(bytes(Report(**fields)), dtype=np.int32).copy()


def state_address(report: Report) -> int:
    """Return where the parameter op's state is, as a pass reports it."""
    low, high = report.state_address
    return int(low) | int(high) << 32
