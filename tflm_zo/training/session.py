# SPDX-License-Identifier: Apache-2.0
"""How far a trainer has come: between fits, and within one that is in work or was interrupted."""

from __future__ import annotations

from dataclasses import dataclass, field

from tflm_zo.training.training_state import Progress
from tflm_zo.training.watch import Watch, WatchState, restore, state_of


@dataclass
class Session:
    """``seed`` of every random choice; ``progress``; ``watch``: the guard of the fit in work or interrupted;
    ``stored_watch``: what a checkpoint has of it, or a finished fit has left."""

    seed: int
    progress: Progress = field(default_factory=Progress)
    watch: Watch | None = None
    stored_watch: WatchState | None = None

    @property
    def watch_state(self) -> WatchState | None:
        """The guard as a checkpoint keeps it."""
        return self.stored_watch if self.watch is None else state_of(self.watch)

    def restore_watch(self, watch: Watch) -> None:
        """Bring a new guard to where that of the unfinished fit was."""
        state = self.watch_state
        if state is not None:
            restore(watch, state)

    def forget_watch(self) -> None:
        """Forget the guard of the last fit."""
        self.watch = self.stored_watch = None
