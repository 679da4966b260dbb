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
