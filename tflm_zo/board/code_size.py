# SPDX-License-Identifier: Apache-2.0
"""What compiled code takes on a board: sizes from linker maps of real firmware (``code_size.json``).

An op's kernel shares code with those of other ops, so sizes do not add up. The table therefore lists groups: code that
is linked in as soon as one of a group's ops is. ``tools/code_size.py`` makes the table from linker maps, and says how
far a plan is from one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Assumed for a kernel that was not measured: about the mean of those that were.
_UNKNOWN_KERNEL = 5_000


@dataclass(frozen=True)
class CodeSize:
    """Bytes of the program beside the board's core and the model, for one TFLM library.

    ``app`` and ``tflm``: flash of a program without any op; ``groups``: flash that comes with the ops named (methods
    of TFLM's resolver, and the training ops' registrations); ``app_ram``: its static RAM without arena and samples,
    ``op_ram`` more for each op that the resolver holds.
    """

    measured_with: str
    app: int
    tflm: int
    app_ram: int
    op_ram: int
    groups: tuple[tuple[frozenset[str], int], ...]

    def unknown(self, ops: Sequence[str]) -> list[str]:
        """Return those of ``ops`` that were not measured."""
        known = frozenset[str]().union(*(names for names, _ in self.groups))
        return [op for op in ops if op not in known]

    def flash(self, ops: Sequence[str]) -> int:
        """Return the flash (bytes) that ``ops`` take together."""
        wanted = frozenset(ops)
        return sum(size for names, size in self.groups if names & wanted) + _UNKNOWN_KERNEL * len(self.unknown(ops))


@cache
def code_sizes() -> dict[str, CodeSize]:
    """Return the measured sizes by the name of the TFLM library."""
    table = json.loads(Path(__file__).with_name("code_size.json").read_text(encoding="utf-8"))
    return {name: code_size(entry) for name, entry in table.items()}


def code_size(entry: dict[str, object]) -> CodeSize:
    """Return one library's entry of the table."""
    values = dict(entry)
    groups = values.pop("groups")
    assert isinstance(groups, list)
    return CodeSize(**values, groups=tuple((frozenset(ops), size) for *ops, size in groups))  # type: ignore[arg-type]
