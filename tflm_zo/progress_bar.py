# SPDX-License-Identifier: Apache-2.0
"""The progress bar of a fit."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class ProgressBar:
    """Counts passes, or what ``unit`` says, on the terminal's error stream; silent if not ``shown``."""

    def __init__(self, total: int, shown: bool, unit: str = "pass") -> None:
        self._bar: Any = None
        if shown:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=unit, dynamic_ncols=True)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def grow(self, total: int) -> None:
        """There are ``total`` more to come than was known at the start."""
        if self._bar is not None:
            self._bar.total += total
            self._bar.refresh()

    def advance(self, passes: int) -> None:
        """Count ``passes`` (or others of the unit) more."""
        if self._bar is not None:
            self._bar.update(passes)

    def show(self, values: dict[str, float]) -> None:
        """Show metrics beside the bar."""
        if self._bar is not None:
            numbers = {k: f"{v:.3f}" for k, v in values.items() if k != "passes"}
            self._bar.set_postfix(numbers, refresh=False)
