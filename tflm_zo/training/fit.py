# SPDX-License-Identifier: Apache-2.0
"""One fit: its samples go through an engine, batch by batch, phase by phase, under the eyes of a guard."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.ops.counter_random import permutation
from tflm_zo.patching.patched_model import model_hash
from tflm_zo.progress_bar import ProgressBar
from tflm_zo.training.engine import Engine, EngineRestarted, Labelled, StepSettings
from tflm_zo.training.evaluation import mean_scores, sample_scores, scored
from tflm_zo.training.fit_plan import FitPlan
from tflm_zo.training.guard import Scores
from tflm_zo.training.history import History
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.interrupt import interruptible
from tflm_zo.training.keeping import Keeping
from tflm_zo.training.new_classes import classes_in, known_but_missing, start_classes, unknown_classes
from tflm_zo.training.probing import passes_to_measure
from tflm_zo.training.rates import Rates, under_guard
from tflm_zo.training.recipe import make_recipe
from tflm_zo.training.session import Session
from tflm_zo.training.watch import Watch, divide, state_of


@dataclass(frozen=True)
class Listeners:
    """Who is told of a fit: ``validation`` is measured after each epoch, ``callbacks`` get each epoch's logs, and a
    true result of one ends the fit; ``shown``: whether there is a progress bar."""

    validation: Labelled | None = None
    callbacks: Sequence[Callable[[dict[str, float]], Any]] = ()
    shown: bool = False


class Fit:
    """A fit of ``samples`` with ``hyper`` by ``engine``; ``session`` and ``keeping`` are the trainer's, and go from fit
    to fit. ``missing_classes``: known to the model, but not among the samples. Raises :class:`ZoError` for
    hyperparameters that do not fit the model."""

    def __init__(
        self, engine: Engine, session: Session, keeping: Keeping, samples: Labelled, hyper: Hyperparameters
    ) -> None:
        self._engine, self._session, self._keeping = engine, session, keeping
        self._samples, self._hyper = samples, hyper
        self._recipe = make_recipe(engine.model, hyper)
        present, self._unknown = classes_in(engine.model, samples), unknown_classes(engine)
        self._new = present & self._unknown
        self.missing_classes = known_but_missing(engine.model, present, self._unknown)
        self._watch = self._make_watch()
        self._history = History()
        self._run = 0

    def run(self, listeners: Listeners, resume: bool) -> History:
        """Carry the fit out, or go on with it (``resume``)."""
        before = self._engine.executions()
        plan = self._begin(resume)
        self._find_rates(plan)
        self._history = History(rates=self._session.progress.rates or Rates(), missing_classes=self.missing_classes)
        self._session.watch = self._watch
        self._configure(plan)
        with interruptible() as interrupt, ProgressBar(plan.total_passes, listeners.shown) as bar:
            try:
                self._phases(plan, listeners, interrupt, bar)
            finally:
                # Also when an exception breaks off in the middle of a query.
                self._engine.abandon_step()
        self._end()
        after = self._engine.executions()
        # An engine that has started anew counts from there.
        same = after.done >= before.done
        self._history.layer_executions = after.done - before.done * same
        self._history.saved_executions = after.saved - before.saved * same
        return self._history

    # -- the weights that are kept, as the watch wants them ---------------------------------------------------

    def keep(self) -> None:
        """Remember the present weights as the best."""
        self._keeping.keep(self._session)

    def return_to_kept(self) -> None:
        """Bring the remembered weights back."""
        self._keeping.bring_back(self._session)

    def scores(self, codes: np.ndarray, targets: np.ndarray) -> Scores:
        """Score the present weights on samples, a pass for each."""
        losses, right = sample_scores(self._engine, Labelled(codes, targets))
        self._session.progress.passes += len(codes)
        return Scores.of(losses, right)

    # -- before the first batch -------------------------------------------------------------------------------

    def _make_watch(self) -> Watch:
        """Without labels nothing tells whether training helps: the entropy, and the mean prediction that it is relative
        to, change while the model learns. Passes that do not suffice for a guard and a batch go to the training."""
        codes, targets = self._samples.codes, self._samples.targets
        loss = self._engine.model.loss
        labels = targets[:, 0] if loss.needs_labels and loss.counts_right else None

        def divided(share: float | None) -> Watch:
            phases = divide(labels, len(codes), share, self._hyper.passes, self._session.seed)
            # Nothing can be forgotten of outputs that stand for no class yet.
            return Watch(phases, codes, targets, labels, loss.classes - len(self._unknown - self._new), self._new)

        watch = divided(self._hyper.holdout if loss.needs_labels else 0.0)
        if watch.guards:
            try:
                probes = passes_to_measure(self._recipe, self._hyper, len(watch.trains))
                self._plan(watch, probes + watch.start_passes)
            except ZoError:
                watch = divided(0.0)
        return watch

    def _begin(self, resume: bool) -> FitPlan:
        """Bring session and engine to where the fit starts or goes on; returns the plan of its phase."""
        watch, session = self._watch, self._session
        if resume:
            session.require_samples(self._samples_name)
        probes = passes_to_measure(self._recipe, self._hyper, len(watch.trains))
        self._run = self._keeping.begin(session, self._name, resume)
        if resume:
            session.restore_watch(watch)
        plan = self._plan(watch, watch.spent or probes + watch.start_passes)
        # What cannot be run is refused before anything is changed.
        self._engine.check(self._settings(plan))
        if resume:
            self._keeping.take_up(session, watch, self._trained, plan.batches)
        else:
            session.begin_anew()
            self._keeping.forget()
            start_classes(self._engine, self._new, self._unknown)
        session.samples = self._samples_name
        return plan

    @cached_property
    def _samples_name(self) -> int:
        """A number by which the samples are known; labels count if the loss needs them."""
        targets = self._samples.targets.tobytes() if self._engine.model.loss.needs_labels else b""
        return zlib.crc32(targets, zlib.crc32(self._samples.codes.tobytes()))

    def _name(self, first_step: int) -> int:
        """A number (not 0) by which the progress of an engine is known to belong to this fit."""
        hyper = sorted(vars(self._hyper).items())
        what = repr((model_hash(self._engine.model.data), self._session.seed, first_step, hyper))
        codes, targets = self._samples.codes.tobytes(), self._samples.targets.tobytes()
        return zlib.crc32(targets, zlib.crc32(codes, zlib.crc32(what.encode()))) or 1

    def _find_rates(self, plan: FitPlan) -> None:
        """Measure what the recipe leaves open, unless the fit that goes on has done so."""
        progress = self._session.progress
        if progress.rates is None:
            trained = self._trained
            rates = self._engine.measure(
                self._recipe, self._hyper, trained, epochs=plan.epochs, seed=self._session.seed
            )
            progress.passes += passes_to_measure(self._recipe, self._hyper, len(trained))
            progress.rates = under_guard(rates) if self._watch.guards and self._hyper.head_lr is None else rates
        self._recipe = self._recipe.with_rates(progress.rates)

    # -- phases -------------------------------------------------------------------------------------------------

    @property
    def _trained(self) -> Labelled:
        """The samples of the present phase."""
        return self._samples[self._watch.trains]

    def _plan(self, watch: Watch, spent: int) -> FitPlan:
        """The plan of the present phase of a fit that has spent so many passes, and leaves the guard what it needs."""
        samples = len(watch.trains)
        hyper = replace(self._hyper, epochs=watch.epochs(self._hyper.epochs))
        a_sample = self._recipe.passes_a_sample(hyper.antithetic)
        total = hyper.epochs * samples * a_sample
        if hyper.passes is not None:
            mine = min(spent, hyper.passes) + int(max(hyper.passes - spent, 0) * watch.part_of_passes())
            hyper = replace(hyper, passes=mine)
            total = min(total, max(mine - spent, 0))
        return FitPlan(samples, hyper, a_sample, spent + watch.passes(total))

    def _settings(self, plan: FitPlan) -> StepSettings:
        return StepSettings(
            seed=self._session.seed,
            antithetic=self._hyper.antithetic,
            exact=self._recipe.exact,
            accumulate=any(node.accumulates for node in self._engine.model.nodes),
            groups=self._recipe.groups,
            batch=plan.batch_size,
            passes_a_sample=self._recipe.passes_a_sample(self._hyper.antithetic),
            run=self._run,
        )

    def _configure(self, plan: FitPlan) -> None:
        progress = self._session.progress
        self._engine.configure(self._recipe, self._settings(plan), progress.head_lr or 0.0, progress.step)
        self._keeping.configured(self._session)

    def _phases(self, plan: FitPlan, listeners: Listeners, interrupt: threading.Event, bar: ProgressBar) -> None:
        """Train through the phases that the watch asks for."""
        watch = self._watch
        while not watch.finished:
            if not self._whole_phase(Phase(self._trained, plan, listeners, interrupt, bar)):
                return
            try:
                plan = self._plan(watch, watch.spent)
            except ZoError:  # too few passes are left for another trial
                watch.give_up()
                return
            bar.grow(plan.total_passes)
            self._configure(plan)

    def _whole_phase(self, phase: Phase) -> bool:
        """Train through a phase, also if the engine starts anew within it; returns whether another one follows."""
        while True:
            try:
                return self._phase(phase)
            except EngineRestarted as restarted:
                epochs = self._history.epochs
                true = self._keeping.go_back(restarted, self._session, self._watch, phase.samples, phase.plan.batches)
                del epochs[len(epochs) if true is None else true :]
                self._configure(phase.plan)

    def _phase(self, phase: Phase) -> bool:
        """Train through the epochs of a phase; returns whether another one follows."""
        watch, history, progress = self._watch, self._history, self._session.progress
        if watch.guard is None:
            watch.begin(self)
            self._keeping.come_to(self._session, watch, len(history.epochs))
        another = False
        while progress.epoch < phase.plan.epochs and not (another or history.interrupted or watch.finished):
            logs, whole = self._epoch(phase)
            history.epochs.append(logs)
            history.interrupted = phase.interrupt.is_set()
            if whole:  # also if Ctrl-C came in its last batch: a resumed fit begins with the next epoch
                another = watch.after_epoch(self, progress.epoch, phase.plan.epochs, phase.plan.total_passes)
                if another:
                    watch.spent = progress.passes
                    progress.epoch = progress.batch = 0
                self._keeping.come_to(self._session, watch, len(history.epochs))
            history.interrupted |= self._tell(phase.listeners, logs, phase.bar)
        return another and not history.interrupted

    def _tell(self, listeners: Listeners, logs: dict[str, float], bar: ProgressBar) -> bool:
        """Measure the validation samples and tell the callbacks; returns whether one of them ends the fit."""
        if listeners.validation is not None and not self._history.interrupted:
            logs |= {f"val_{k}": v for k, v in mean_scores(self._engine, listeners.validation).items()}
        bar.show(logs)
        return any([bool(callback(logs)) for callback in listeners.callbacks])

    def _epoch(self, phase: Phase) -> tuple[dict[str, float], bool]:
        """Train on the batches that are left of the present epoch; returns its logs and whether it came to its end."""
        progress, plan, samples = self._session.progress, phase.plan, phase.samples
        order = permutation(self._session.seed, progress.epoch, len(samples))
        loss, right, count = 0.0, 0, 0
        with_accuracy = self._engine.model.loss.counts_right and scored(self._engine.model, samples)
        while progress.batch < plan.batches_in(progress.epoch) and not phase.interrupt.is_set():
            batch = order[progress.batch * plan.batch_size :][: plan.batch_size]
            done = progress.epoch * plan.batches + progress.batch
            rate_scale = plan.rate_scale(done) * self._watch.factor
            totals = self._engine.step(samples, batch, progress.step, rate_scale, phase.bar.advance)
            loss, right, count = loss + totals.loss, right + totals.right, count + totals.passes
            progress.passes += totals.passes
            progress.batch += 1
            progress.step += 1
            phase.bar.show({"loss": loss / count} | ({"accuracy": right / count} if with_accuracy else {}))
        progress.passes += self._engine.finish(samples)
        self._keeping.trained(self._session, self._watch)
        # More than that: the fit is resumed with larger batches or fewer passes.
        whole = progress.batch >= plan.batches_in(progress.epoch)
        if whole:
            progress.epoch, progress.batch = progress.epoch + 1, 0
        logs = {"loss": loss / count if count else float("nan"), "passes": progress.passes}
        if with_accuracy:
            logs["accuracy"] = right / max(count, 1)
        return logs, whole

    # -- after the last batch -------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Leave the best weights in the model; those of an interrupted fit are set aside, to go on from."""
        watch, session, history = self._watch, self._session, self._history
        history.guard = watch.outcome
        if not history.interrupted:
            watch.end(self)
            self._keeping.forget()
            session.forget_watch()
            if watch.guards:  # a finished fit that is resumed has nothing left, whenever the guard ended it
                watch.finished = True
                session.stored_watch = state_of(watch)
            self._engine.confirm(self._samples.codes)
        elif watch.unjudged:
            self._keeping.set_aside(session)
            self._keeping.bring_back(session)


@dataclass(frozen=True)
class Phase:
    """What a phase of a fit goes through and who is told; ``interrupt`` is set when it is to end after the batch in
    work."""

    samples: Labelled
    plan: FitPlan
    listeners: Listeners
    interrupt: threading.Event
    bar: ProgressBar
