# SPDX-License-Identifier: Apache-2.0
"""The command that every pass is given and the report that it ends with, as ``kernels/session.h`` lays them out."""

from __future__ import annotations

import numpy as np

COMMAND_MAGIC = 0x5A4F434D
REPORT_MAGIC = 0x5A4F5245

# Bits of a command's actions, as in kernels/session.h.
INITIALISE = 1 << 0
LOSS = 1 << 4
MEASURE = 1 << 10

COMMAND_DTYPE = np.dtype(
    [
        ("magic", "<u4"),
        ("actions", "<u4"),
        ("sign", "<i4"),
        ("seed", "<u4"),
        ("query", "<i4"),
        ("first", "<i4"),
        ("last", "<i4"),
        ("node_first", "<i4"),
        ("node_last", "<i4"),
        ("update_seed", "<u4"),
        ("update_queries", "<i4"),
        ("update_first", "<i4"),
        ("update_last", "<i4"),
        ("update_scale", "<f4"),
        ("update_rate", "<f4"),
        ("head_rate", "<f4"),
        ("head_seed", "<u4"),
        ("node_rate", "<f4"),
        ("reserved", "<u4", (2,)),
    ]
)

REPORT_DTYPE = np.dtype(
    [
        ("magic", "<u4"),
        ("loss", "<f4"),
        ("prediction", "<i4"),
        ("feature_energy", "<f4"),
        ("state_address", "<u4", (2,)),
        ("gradient_energy", "<f4"),
        ("layer_energy", "<f4"),
    ]
)


def make_command(actions: int = 0, **fields: int) -> np.ndarray:
    """Return a command (int32[20]) for one pass; ``fields``: those of the command that are not 0."""
    command = np.zeros((), dtype=COMMAND_DTYPE)
    command["magic"], command["actions"] = COMMAND_MAGIC, actions
    for name, value in fields.items():
        command[name] = value
    return np.frombuffer(command.tobytes(), dtype=np.int32).copy()
