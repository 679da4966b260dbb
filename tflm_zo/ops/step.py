# SPDX-License-Identifier: Apache-2.0
"""What a training step is made of (``kernels/schedule.h``)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

MAX_QUERIES = 64
MAX_GROUPS = 63


class Exact(enum.IntEnum):
    """What exact gradients update (``ScheduleSettings::exact``)."""

    NOTHING = 0
    ALL = 1
    BEFORE_HEAD = 2


class GroupMode(enum.IntEnum):
    """How a group is perturbed (``kernels/schedule.h``)."""

    BATCH_DIRECTIONS = 0
    SAMPLE_DIRECTIONS = 1
    NODES = 2


@dataclass(frozen=True)
class Group:
    """Parameters or nodes [first, last) that are perturbed together, by ``queries`` directions."""

    mode: GroupMode
    first: int
    last: int
    queries: int

    def passes_a_sample(self, antithetic: bool) -> int:
        """Forward passes for each sample of a step, with the pass that updates nodes."""
        clean = (0 if antithetic else 1) + (self.mode is GroupMode.NODES)
        return self.queries * (2 if antithetic else 1) + clean
