# SPDX-License-Identifier: Apache-2.0
"""What a training step is made of (``kernels/schedule.h``)."""

from __future__ import annotations

from dataclasses import dataclass

from tflm_zo.ops.layouts import MAX_GROUPS, MAX_QUERIES, Exact, GroupMode

__all__ = ["MAX_GROUPS", "MAX_QUERIES", "Exact", "Group", "GroupMode"]


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
