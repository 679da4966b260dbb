# SPDX-License-Identifier: Apache-2.0
"""How far a trainer has come: between fits, and within one that is in work or was interrupted."""

from __future__ import annotations

from dataclasses import dataclass, field

from tflm_zo.errors import ZoError
from tflm_zo.training.training_state import Progress
from tflm_zo.training.watch import Watch, WatchState, restore, state_of


@dataclass
class Session:
    """``seed`` of every random choice; ``progress``; ``watch``: the guard of the fit in work or interrupted;
    ``stored_watch``: what a checkpoint has of it, or a finished fit has left; ``samples``: a number by which those of
    the last fit are known, None if they are not."""

    seed: int
    progress: Progress = field(default_factory=Progress)
    watch: Watch | None = None
    stored_watch: WatchState | None = None
    samples: int | None = None

    def require_samples(self, samples: int) -> None:
        """Raise :class:`ZoError` if the fit to go on with had others."""
        if self.samples in (None, samples):
            return
        state = self.watch_state
        if state is None or state.values["finished"]:
            raise ZoError(
                "the fit to resume is finished, and had other samples: to train on these from its weights, fit without "
                "resume (tflm-zo train --checkpoint instead of --resume)"
            )
        raise ZoError(
            "the fit to resume had other samples: give the same samples, or to train on these from its best weights, "
            "fit without resume (tflm-zo train --checkpoint instead of --resume)"
        )

    @property
    def watch_state(self) -> WatchState | None:
        """The guard as a checkpoint keeps it."""
        return self.stored_watch if self.watch is None else state_of(self.watch)

    def restore_watch(self, watch: Watch) -> None:
        """Bring a new guard to where that of the unfinished fit was."""
        state = self.watch_state
        if state is not None:
            restore(watch, state)

    def begin_anew(self) -> None:
        """The next fit, at the next step, is not the last one."""
        self.progress = Progress(step=self.progress.step)
        self.samples = None
        self.forget_watch()

    def forget_watch(self) -> None:
        """Forget the guard of the last fit."""
        self.watch = self.stored_watch = None
