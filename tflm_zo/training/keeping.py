# SPDX-License-Identifier: Apache-2.0
"""Where a fit keeps its best weights, and how an unfinished fit is taken up: in memory, or by an engine that outlives
the trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tflm_zo.errors import ZoError
from tflm_zo.training.engine import Engine, EngineRestarted, Labelled, Position, Store
from tflm_zo.training.session import Session
from tflm_zo.training.training_state import Progress, Snapshot
from tflm_zo.training.watch import Watch, WatchState, restore, state_of


class Keeping:
    """Keeps weights in memory: ``kept``, the best of a fit, and ``suspended``, the last ones of one that was
    interrupted."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.kept: Snapshot | None = None
        self.suspended: Snapshot | None = None

    def begin(self, session: Session, name: Callable[[int], int], resume: bool) -> int:
        """A fit begins, or is taken up; ``name`` names its run by its first step. Returns the name, 0 without."""
        return 0

    def configured(self, session: Session) -> None:
        """The engine has been told what the next steps are."""

    def keep(self, session: Session) -> None:
        """Remember the present weights as the best of the fit in work."""
        self.kept = self.engine.read()

    def bring_back(self, session: Session) -> None:
        """Bring back the weights that :meth:`keep` remembered, if it did."""
        if self.kept is not None:
            self.engine.write(self.kept)

    def set_aside(self, session: Session) -> None:
        """Remember the present weights of a fit that is interrupted, to go on from."""
        self.suspended = self.engine.read()

    def take_up(self, session: Session, watch: Watch, samples: Labelled, batches: int) -> None:
        """Go on with an unfinished fit of so many ``batches`` an epoch, from the weights that it was at."""
        if self.suspended is not None:
            self.engine.write(self.suspended)
            self.suspended = None

    def come_to(self, session: Session, watch: Watch, epochs: int) -> None:
        """A fit has begun, or has come to the end of an epoch, with so many in its history."""

    def trained(self, session: Session, watch: Watch) -> None:
        """The batches of an epoch, or those before Ctrl-C, have been trained on."""

    def go_back(
        self, restarted: EngineRestarted, session: Session, watch: Watch, samples: Labelled, batches: int
    ) -> int | None:
        """Go on from where an engine has started anew; returns how many epochs of the history are still true (None:
        all). Raises ``restarted`` if that cannot be."""
        raise restarted

    def recalibrated(self, session: Session) -> None:
        """The input adapter was set by statistics."""

    def replaced(self, session: Session) -> None:
        """The weights were set from outside: an unfinished fit cannot be gone on with."""
        self.forget()

    def forget(self) -> None:
        """Forget what only an unfinished fit needs."""
        self.kept = self.suspended = None

    def forget_run(self) -> None:
        """The engine is as it was at the very start."""
        self.forget()


@dataclass(frozen=True)
class _Mark:
    """What belongs to the engine's newest checkpoint: progress, guard, the number of epochs in the history."""

    progress: Progress
    guard: WatchState
    epochs: int


class StoreKeeping(Keeping):
    """Keeps the best weights in the engine's own checkpoints; without these in memory, as :class:`Keeping`.

    An engine that starts anew goes on from its newest checkpoint, and so does what belongs to it here.
    """

    def __init__(self, engine: Engine, store: Store) -> None:
        super().__init__(engine)
        self._store = store
        self._run = 0
        self._first_step = 0
        # The run that this object has begun or taken up, and where its newest checkpoint stands.
        self._known_run = 0
        self._mark: _Mark | None = None

    def begin(self, session: Session, name: Callable[[int], int], resume: bool) -> int:
        """See :meth:`Keeping.begin`."""
        self._store.adopted = False
        if not resume:
            self._first_step = session.progress.step
            self._mark = None
        self._run = name(self._first_step)
        return self._run

    def configured(self, session: Session) -> None:
        """See :meth:`Keeping.configured`."""
        self._known_run = self._run
        if self._store.saves and session.progress.step == self._first_step:
            # An engine that starts anew, or a run that is taken up, finds its beginning.
            self._store.save(session.progress.step)

    def keep(self, session: Session) -> None:
        """See :meth:`Keeping.keep`."""
        if self._store.saves:
            self._store.save(session.progress.step)
        else:
            super().keep(session)

    def bring_back(self, session: Session) -> None:
        """See :meth:`Keeping.bring_back`."""
        if self._store.saves:
            self._store.restore(session.progress.step)
        else:
            super().bring_back(session)

    def set_aside(self, session: Session) -> None:
        """See :meth:`Keeping.set_aside`: the run goes on from the newest checkpoint, and comes to the same weights."""
        if not self._store.saves or self._mark is None:
            super().set_aside(session)
            return
        marked = self._mark.progress
        session.progress = replace(session.progress, epoch=marked.epoch, batch=marked.batch, step=marked.step)
        session.watch, session.stored_watch = None, self._mark.guard

    def take_up(self, session: Session, watch: Watch, samples: Labelled, batches: int) -> None:
        """See :meth:`Keeping.take_up`; raises :class:`ZoError` if the engine holds nothing of this run, or not all."""
        if self._known_run == self._run:
            super().take_up(session, watch, samples, batches)
            return
        self._store.adopted = True
        position = self._store.position
        if watch.guards and position.run == self._run and position.steps != self._first_step:
            # The present weights are not judged yet, and how those of the checkpoint were only their host knows.
            if self._store.restore().steps != self._first_step:
                raise ZoError(
                    "the board has the best weights of this run so far, but only the host that began it can go on: "
                    "start without resuming, from these weights, or train with holdout 0"
                )
            session.progress = Progress(step=self._first_step)
            return
        self._go_to(position, session, samples, batches)

    def _go_to(self, position: Position, session: Session, samples: Labelled, batches: int) -> None:
        if position.run != self._run:
            raise ZoError(
                f"the board holds nothing of this run ({position.message}): start without resuming, or with the "
                "samples, seed and options that it was started with"
            )
        done = position.steps - self._first_step
        if self._mark is not None:
            marked = self._mark.progress
            done = marked.epoch * batches + marked.batch + position.steps - marked.step
        epoch, batch = divmod(done, batches)
        progress = session.progress
        session.progress = Progress(epoch, batch, position.steps, progress.passes, progress.rates)
        session.progress.passes += self.engine.finish(samples)

    def come_to(self, session: Session, watch: Watch, epochs: int) -> None:
        """See :meth:`Keeping.come_to`."""
        if self._store.saved_step == session.progress.step:
            self._mark = _Mark(replace(session.progress), state_of(watch), epochs)

    def trained(self, session: Session, watch: Watch) -> None:
        """See :meth:`Keeping.trained`."""
        if self._store.saves and not watch.unjudged:
            self._store.save(session.progress.step)

    def go_back(
        self, restarted: EngineRestarted, session: Session, watch: Watch, samples: Labelled, batches: int
    ) -> int | None:
        """See :meth:`Keeping.go_back`."""
        if not self._store.saves:
            raise restarted
        self._go_to(restarted.position, session, samples, batches)
        if self._mark is None:
            return None
        restore(watch, self._mark.guard)
        return self._mark.epochs

    def recalibrated(self, session: Session) -> None:
        """See :meth:`Keeping.recalibrated`."""
        if self._store.saves:
            self._store.save(session.progress.step)

    def replaced(self, session: Session) -> None:
        """See :meth:`Keeping.replaced`."""
        self.forget_run()
        if self._store.saves:
            self._store.save(session.progress.step)

    def forget_run(self) -> None:
        """See :meth:`Keeping.forget_run`."""
        super().forget_run()
        self._known_run = 0
