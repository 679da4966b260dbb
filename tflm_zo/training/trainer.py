# SPDX-License-Identifier: Apache-2.0
"""Training a patched model inside TFLM."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.files import read_bytes
from tflm_zo.model.quantization import dequantize
from tflm_zo.model.samples import input_codes
from tflm_zo.ops import compiled as plugin
from tflm_zo.ops.command import INITIALISE, LOSS, make_command
from tflm_zo.ops.counter_random import permutation
from tflm_zo.patching.bake import bake
from tflm_zo.patching.patched_model import Parameter, read_patched
from tflm_zo.progress_bar import ProgressBar
from tflm_zo.training import checkpoint
from tflm_zo.training.fit_plan import FitPlan
from tflm_zo.training.guard import Scores
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.probing import measure_rates, passes_to_measure
from tflm_zo.training.rates import Rates, under_guard
from tflm_zo.training.recipe import Recipe, make_recipe
from tflm_zo.training.samples import sample_codes
from tflm_zo.training.step_totals import StepTotals, sum_in_order
from tflm_zo.training.tflm_passes import TrainingInterpreter
from tflm_zo.training.training_state import Progress, Snapshot
from tflm_zo.training.watch import Outcome, Watch, WatchState, divide, restore, state_of

Callback = Callable[["Trainer", dict[str, float]], Any]


@dataclass
class History:
    """What a fit did, one entry an epoch: ``loss``, ``accuracy`` (classes only), with validation data also
    ``val_loss`` and ``val_accuracy``, and ``passes``, the training passes so far. ``interrupted`` tells whether
    Ctrl-C or a callback ended it early.

    ``layer_executions`` counts how often TFLM executed a layer during the fit, validation included;
    ``saved_executions`` how many more it would have been without remembering what the frozen layers in front make of
    a sample. Both are 0 in the simulator, which does not count them, and for a
    board, which is asked otherwise.

    ``rates`` are the learning rates that the fit measured or was given, ``guard`` says what kept the model from getting
    worse (:class:`~tflm_zo.training.watch.Outcome`)."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False
    rates: Rates = field(default_factory=Rates)
    guard: Outcome = field(default_factory=Outcome)
    layer_executions: int = field(default=0, compare=False)
    saved_executions: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Work:
    """What a phase of a fit goes through: input codes (n, ...), targets (n, ...), the order of passes; where it is
    shown, who judges it, what ends it early, where it is written down; and what is wanted after each epoch."""

    codes: np.ndarray
    targets: np.ndarray
    schedule: plugin.Schedule
    bar: ProgressBar
    watch: Watch
    interrupt: threading.Event
    history: History
    validation_data: tuple[np.ndarray, np.ndarray | None] | None
    callbacks: Sequence[Callback]


class Trainer:
    """A patched model that learns from labelled samples, with forward passes only.

    ``model`` is a patched model's bytes or path; ``seed`` fixes every random choice; ``arena_size`` in bytes
    (default: as much as needed). Raises :class:`ZoError` if the model cannot be trained or does not fit.

    Same model, samples, seed and hyperparameters give the same weights, to the bit.
    """

    # Of a fit in work, or interrupted; or what a checkpoint has of it.
    _watch: Watch | None
    _watch_state: WatchState | None
    _kept: Snapshot | None
    _suspended: Snapshot | None

    def __init__(self, model: bytes | str | os.PathLike[str], seed: int = 0, arena_size: int | None = None) -> None:
        data = bytes(model) if isinstance(model, (bytes, bytearray)) else read_bytes(model)
        self.model = read_patched(data)
        self.seed = seed
        self.progress = Progress()
        self._reset_fit()
        self._interpreter = TrainingInterpreter(data, arena_size)
        self._classes = self.model.loss.classes > 0
        self._idle = make_command()
        self._evaluate = make_command(LOSS)
        self._no_target = np.zeros(self.model.target_shape, dtype=np.int32 if self._classes else np.int8)
        report = self._pass(self._no_input(), self._no_target, self._idle)
        low, high = (int(v) & 0xFFFFFFFF for v in report[4:6])
        self._state = plugin.OpState(low | high << 32)

    # -- learning ------------------------------------------------------------------------------------------

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray | None = None,
        *,
        validation_data: tuple[np.ndarray, np.ndarray | None] | None = None,
        callbacks: Sequence[Callback] = (),
        verbose: bool = True,
        resume: bool = False,
        **hyperparameters: Any,
    ) -> History:
        """Train on samples ``x`` (n, ...) with labels ``y`` (class indices, or vectors for mse).

        A model patched with loss entropy learns from ``x`` alone; labels then only tell the accuracy.

        validation_data: (x, y) to measure after each epoch. callbacks: called after each epoch with the trainer
        and its logs; a true result ends the training. verbose: show a progress bar. resume: go on with a fit that
        Ctrl-C ended, or that a checkpoint was saved in; give the same samples and hyperparameters.
        hyperparameters: epochs, batch_size, passes, method, queries, head_lr and the others that
        :class:`~tflm_zo.training.hyperparameters.Hyperparameters` explains.

        Ctrl-C ends the training after the batch in work. Raises :class:`ZoError` for unusable arguments.
        """
        unknown = set(hyperparameters) - {f.name for f in fields(Hyperparameters)}
        if unknown:
            raise TypeError(f"fit has no hyperparameter {sorted(unknown)[0]!r}")
        hyper = Hyperparameters(**hyperparameters)
        codes, targets = sample_codes(x, y, self.model)
        if validation_data is not None:
            sample_codes(*validation_data, self.model)  # bad ones are better refused now than after an epoch
        recipe = make_recipe(self.model, hyper)
        executed, saved = self._executions()
        watch = self._make_watch(codes, targets, hyper, recipe)
        probes = passes_to_measure(recipe, hyper, len(watch.trains))
        if resume:
            self._restore_watch(watch)
        plan = self._plan(recipe, hyper, watch, watch.spent or probes + watch.start_passes)
        self._schedule(recipe, hyper, plan)  # refuses what cannot be run before anything is changed
        if resume:
            self._take_up_fit(plan, watch)
        else:
            self.progress = Progress(step=self.progress.step)
            self._reset_fit()
        if self.progress.rates is None:
            x_trained, y_trained = codes[watch.trains], targets[watch.trains]
            rates = self._measure(recipe, hyper, x_trained, y_trained, plan.epochs)
            self.progress.rates = under_guard(rates) if watch.guards and hyper.head_lr is None else rates
        recipe = recipe.with_rates(self.progress.rates)
        history = History(rates=self.progress.rates)
        self._watch = watch
        schedule = self._configure_fit(recipe, hyper, plan)
        with _interruptible() as interrupt, ProgressBar(plan.total_passes, verbose) as bar:
            try:
                while not watch.finished:
                    samples = codes[watch.trains], targets[watch.trains]
                    work = Work(*samples, schedule, bar, watch, interrupt, history, validation_data, callbacks)
                    if not self._phase(work, plan):
                        break
                    try:
                        plan = self._plan(recipe, hyper, watch, watch.spent)
                    except ZoError:  # too few passes are left for another trial
                        watch.give_up()
                        break
                    bar.grow(plan.total_passes)
                    schedule = self._configure_fit(recipe, hyper, plan)
            finally:
                # Also when an exception breaks off in the middle of a query.
                self._state.restore_clean()
        self._end(watch, history)
        executed_now, saved_now = self._executions()
        history.layer_executions, history.saved_executions = executed_now - executed, saved_now - saved
        return history

    def _phase(self, work: Work, plan: FitPlan) -> bool:
        """Train through the epochs of a phase; returns whether another one follows."""
        watch, history = work.watch, work.history
        if watch.guard is None:
            watch.begin(self)
            self._come_to(watch, history)
        another = False
        while self.progress.epoch < plan.epochs and not (another or history.interrupted or watch.finished):
            logs, whole = self._epoch(work, plan)
            history.epochs.append(logs)
            history.interrupted = work.interrupt.is_set()
            if whole:  # also if Ctrl-C came in its last batch: a resumed fit begins with the next epoch
                another = watch.after_epoch(self, self.progress.epoch, plan.epochs, plan.total_passes)
                if another:
                    watch.spent = self.progress.passes
                    self.progress.epoch = self.progress.batch = 0
                self._come_to(watch, history)
            if work.validation_data is not None and not history.interrupted:
                scores = self.evaluate(*work.validation_data)
                logs |= {f"val_{k}": v for k, v in scores.items()}
            work.bar.show(logs)
            for callback in work.callbacks:
                history.interrupted |= bool(callback(self, logs))
        return another and not history.interrupted

    def _come_to(self, watch: Watch, history: History) -> None:
        """The fit has begun, or has come to the end of an epoch: for trainers whose engine may start anew."""

    def _configure_fit(self, recipe: Recipe, hyper: Hyperparameters, plan: FitPlan) -> plugin.Schedule:
        schedule = self._schedule(recipe, hyper, plan)
        self._configure(recipe)
        return schedule

    # -- the guard -----------------------------------------------------------------------------------------

    def _make_watch(self, codes: np.ndarray, targets: np.ndarray, hyper: Hyperparameters, recipe: Recipe) -> Watch:
        """Without labels nothing tells whether training helps: the entropy, and the mean prediction that it is relative
        to, change while the model learns. Passes that do not suffice for a guard and a batch go to the training."""
        labelled = self.model.loss.needs_labels
        labels = targets[:, 0] if labelled and self._classes else None

        def divided(share: float | None) -> Watch:
            phases = divide(labels, len(codes), share, hyper.passes, self.seed)
            return Watch(phases, codes, targets, labels, self.model.loss.classes)

        watch = divided(hyper.holdout if labelled else 0.0)
        if watch.guards:
            try:
                probes = passes_to_measure(recipe, hyper, len(watch.trains))
                self._plan(recipe, hyper, watch, probes + watch.start_passes)
            except ZoError:
                watch = divided(0.0)
        return watch

    def _plan(self, recipe: Recipe, hyper: Hyperparameters, watch: Watch, spent: int) -> FitPlan:
        """The plan of the present phase of a fit that has spent so many passes, and leaves the guard what it needs."""
        samples = len(watch.trains)
        hyper = replace(hyper, epochs=watch.epochs(hyper.epochs))
        a_sample = recipe.passes_a_sample(hyper.antithetic)
        total = hyper.epochs * samples * a_sample
        if hyper.passes is not None:
            mine = min(spent, hyper.passes) + int(max(hyper.passes - spent, 0) * watch.part_of_passes())
            hyper = replace(hyper, passes=mine)
            total = min(total, max(mine - spent, 0))
        return FitPlan(samples, hyper, a_sample, spent + watch.passes(total))

    def _end(self, watch: Watch, history: History) -> None:
        """Leave the best weights in the model; those of an interrupted fit are set aside, to go on from."""
        history.guard = watch.outcome
        if not history.interrupted:
            watch.end(self)
            self._reset_fit()
            if watch.guards:  # a finished fit that is resumed has nothing left, whenever the guard ended it
                watch.finished = True
                self._watch_state = state_of(watch)
        elif watch.unjudged:
            self._set_aside()
            self.return_to_kept()

    def _reset_fit(self) -> None:
        """Forget what only an unfinished fit needs."""
        self._watch = None
        self._watch_state = None
        self._kept = None
        self._suspended = None

    def _restore_watch(self, watch: Watch) -> None:
        """Bring the guard to where that of the unfinished fit was."""
        state = self._watch_state if self._watch is None else state_of(self._watch)
        if state is not None:
            restore(watch, state)

    def _take_up_fit(self, plan: FitPlan, watch: Watch) -> None:
        """Go on with an unfinished fit, from the weights that it was at."""
        if self._suspended is not None:
            self._write(self._suspended)
            self._suspended = None

    def keep(self) -> None:
        """Remember the present weights as the best of the fit in work."""
        self._kept = self._snapshot()

    def return_to_kept(self) -> None:
        """Bring back the weights that :meth:`keep` remembered."""
        if self._kept is not None:
            self._write(self._kept)

    def scores(self, codes: np.ndarray, targets: np.ndarray) -> Scores:
        """Score the present weights on samples (input codes, targets) for the guard; a pass for each."""
        losses, right = self._losses(codes, targets)
        self.progress.passes += len(codes)
        return Scores.of(losses, right)

    def _set_aside(self) -> None:
        """Remember the present weights of a fit that is interrupted."""
        self._suspended = self._snapshot()

    def _snapshot(self) -> Snapshot:
        values = [self._tensor(p).reshape(-1) for p in self.model.parameters]
        moments = {p.index: self._state.moments(p.index).copy() for p in self.model.parameters if p.moments}
        return Snapshot(values, moments)

    def _write(self, snapshot: Snapshot) -> None:
        for index, values in enumerate(snapshot.values):
            self._state.write(index, values)
        for index, moments in snapshot.moments.items():
            self._state.moments(index)[:] = moments

    def _measure(
        self, recipe: Recipe, hyper: Hyperparameters, codes: np.ndarray, targets: np.ndarray, epochs: int
    ) -> Rates:
        """Measure the rates that the recipe leaves open."""
        self._configure(recipe.with_rates(Rates()))
        found = measure_rates(self.model, recipe, hyper, self._pass, codes, targets, epochs=epochs, seed=self.seed)
        self._state.restore_clean()
        self.progress.passes += passes_to_measure(recipe, hyper, len(codes))
        return found

    def _executions(self) -> tuple[int, int]:
        """Executions of layers so far, and how many were saved."""
        return self._interpreter.layer_executions, self._interpreter.saved_executions

    def _schedule(self, recipe: Recipe, hyper: Hyperparameters, plan: FitPlan) -> plugin.Schedule:
        return plugin.Schedule(
            seed=self.seed,
            antithetic=hyper.antithetic,
            exact=recipe.exact,
            head_rate=self.progress.head_lr or 0.0,
            accumulate=any(node.accumulates for node in self.model.nodes),
            groups=recipe.groups,
            batch=plan.batch_size,
        )

    def _configure(self, recipe: Recipe) -> None:
        """Set sigma and learning rate of every parameter and node, as the recipe has checked them."""
        for index, setting in recipe.parameters.items():
            self._state.configure(index, setting.sigma, setting.rate or 0.0, setting.mask)
        for number, node in recipe.nodes.items():
            self._state.configure_node(number, node.sigma, node.block, node.rate or 0.0, node.mask)

    def _epoch(self, work: Work, plan: FitPlan) -> tuple[dict[str, float], bool]:
        """Train on the batches that are left of the present epoch; returns its logs and whether it came to its end."""
        progress = self.progress
        order = permutation(self.seed, progress.epoch, len(work.codes))
        loss, right, count = 0.0, 0, 0
        scored = self._scored(work.targets)
        while progress.batch < plan.batches_in(progress.epoch) and not work.interrupt.is_set():
            batch = order[progress.batch * plan.batch_size :][: plan.batch_size]
            done = progress.epoch * plan.batches + progress.batch
            totals = self._step(work, batch, plan.rate_scale(done) * work.watch.factor)
            loss, right, count = loss + totals.loss, right + totals.right, count + totals.passes
            progress.passes += totals.passes
            progress.batch += 1
            progress.step += 1
            work.bar.show({"loss": loss / count} | ({"accuracy": right / count} if scored else {}))
        self._finish(work)
        # More than that: the fit is resumed with larger batches or fewer passes.
        whole = progress.batch >= plan.batches_in(progress.epoch)
        if whole:
            progress.epoch, progress.batch = progress.epoch + 1, 0
        logs = {"loss": loss / count if count else float("nan"), "passes": progress.passes}
        if scored:
            logs["accuracy"] = right / max(count, 1)
        return logs, whole

    def _step(self, work: Work, batch: np.ndarray, rate_scale: float) -> StepTotals:
        """Train on the samples of which ``batch`` holds the indices."""
        losses, right = [], 0
        for sample in work.schedule.step(self.progress.step, len(batch), rate_scale):
            index = batch[sample]
            report = self._pass(work.codes[index], work.targets[index], work.schedule.command)
            losses.append(report[1:2].view(np.float32)[0])
            right += self._classes and int(report[2]) == int(work.targets[index][0])
            work.bar.advance(1)
        return StepTotals(len(losses), sum_in_order(np.array(losses, dtype=np.float32)), right)

    def _finish(self, work: Work) -> None:
        """Apply what is left of the last update, which otherwise rides on the next pass."""
        if work.schedule.flush():
            self._pass(work.codes[0], work.targets[0], work.schedule.command)
            self.progress.passes += 1

    def recalibrate(self, x: np.ndarray) -> None:
        """Undo a drift of the sensor by gain and offset of each input channel, without labels and forward passes.

        x: at least 2 samples (n, ...) as they come now. Mean and spread of their channels are brought back to those of
        the samples that the model was patched with as a reference, within the input adapter's range. Whatever the
        adapter has learned is replaced; training may go on from there.

        Raises :class:`ZoError` if the model was patched without adapter or reference, or ``x`` is not usable.
        """
        done = self._state.recalibrate(self.recalibration_codes(x))
        assert done  # the samples have been checked

    def recalibration_codes(self, x: np.ndarray) -> np.ndarray:
        """Return samples to recalibrate on as int8 (n, *input_shape); raises as :meth:`recalibrate`."""
        if self.model.reference is None:
            raise ZoError(
                "the model has nothing to recalibrate by: patch it with the adapter and reference samples "
                "(--adapter --reference before.npz)"
            )
        codes = input_codes(x, self.model.input_shape, self.model.input_quantization)
        if len(codes) < 2:
            raise ZoError("x has one sample: recalibration needs at least 2, better some hundred")
        return codes

    # -- using the model -----------------------------------------------------------------------------------

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the model's outputs for ``x`` (n, ...) as float32 (n, ...)."""
        outputs = self.predict_codes(x)
        quantization = self.model.output_quantization
        return outputs if outputs.dtype != np.int8 or quantization is None else dequantize(outputs, quantization)

    def predict_codes(self, x: np.ndarray) -> np.ndarray:
        """Return the model's outputs for ``x`` as it stores them (int8 codes), shape (n, ...)."""
        codes = input_codes(x, self.model.input_shape, self.model.input_quantization)
        outputs = []
        for sample in codes:
            self._pass(sample, self._no_target, self._idle)
            outputs.append(self._interpreter.output())
        return np.concatenate(outputs)

    def evaluate(self, x: np.ndarray, y: np.ndarray | None = None) -> dict[str, float]:
        """Return ``loss`` and, for classes, ``accuracy`` (of the model's int8 output) on samples and labels.

        ``y`` may be left out for a model patched with loss entropy; there is no accuracy then.
        """
        codes, targets = sample_codes(x, y, self.model)
        losses, right = self._losses(codes, targets)
        scores = {"loss": sum_in_order(losses) / len(losses)}
        if right is not None:
            scores["accuracy"] = int(np.sum(right)) / len(right)
        return scores

    def sample_scores(self, x: np.ndarray, y: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the loss of each sample (float32 (n,)) and, for classes, whether the model's int8 output is right
        (bool (n,), else None)."""
        return self._losses(*sample_codes(x, y, self.model))

    def _losses(self, codes: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Loss of each sample (float32, n) and, for classes that are known, whether the model's int8 output is right
        (bool, n); a pass for each."""
        losses, right = [], []
        for sample, target in zip(codes, targets, strict=True):
            report = self._pass(sample, target, self._evaluate)
            losses.append(report[1:2].view(np.float32)[0])
            if self._classes:
                right.append(self._predicted_class(int(report[2])) == int(target[0]))
        return np.array(losses, dtype=np.float32), np.array(right) if self._scored(targets) else None

    def _scored(self, targets: np.ndarray) -> bool:
        """Whether targets are classes, and known, so that right answers can be counted."""
        return self._classes and bool(np.all(targets >= 0))

    def _predicted_class(self, reported: int) -> int:
        if self.model.loss.outputs == 1:
            return reported  # one sigmoid unit: the output holds no argmax
        return int(np.argmax(self._interpreter.output()))

    # -- weights -------------------------------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Copies of the trained tensors by name (``layer/weights`` int8, ``layer/bias`` int32)."""
        return {p.name: self._tensor(p) for p in self.model.parameters if p.in_model}

    def _tensor(self, parameter: Parameter) -> np.ndarray:
        self._state.restore_clean()
        return self._state.view(parameter.index).reshape(parameter.shape).copy()

    def bake(self) -> bytes:
        """Return a plain int8 ``.tflite`` with the trained weights."""
        return bake(self.model.data, {p.index: self._tensor(p) for p in self.model.parameters})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint to ``path``, atomically; training can go on from it to the same bits."""
        current = self._snapshot()
        best, unfinished = current, None
        if self._kept is not None:
            best, unfinished = self._kept, self._suspended or current
        guard = self._watch_state if self._watch is None else state_of(self._watch)
        checkpoint.save(path, self.model, checkpoint.Checkpoint(self.seed, self.progress, best, unfinished, guard))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue from the checkpoint ``path``: its weights, seed and progress.

        Of a fit that was not finished these are the best weights so far; ``fit(..., resume=True)`` goes on from the
        last ones. Raises :class:`ZoError`, with nothing changed, if it is damaged or of another model.
        """
        saved = checkpoint.load(path, self.model)
        before = self._snapshot()
        for snapshot in (saved.unfinished, saved.best):
            for parameter in self.model.parameters if snapshot is not None else ():
                assert snapshot is not None
                if not self._state.write(parameter.index, snapshot.values[parameter.index]):
                    self._write(before)
                    raise ZoError(f"{path}: values of {parameter.name} are out of range: the file is damaged")
        self._write(saved.best)
        self._reset_fit()
        self.seed, self.progress = saved.seed, saved.progress
        if saved.unfinished is not None:
            self._kept, self._suspended = saved.best, saved.unfinished
        self._watch_state = saved.guard

    def reset(self) -> None:
        """Bring back the weights that the model was patched with, and start the steps anew."""
        self._pass(self._no_input(), self._no_target, make_command(INITIALISE))
        self.progress = Progress()
        self._reset_fit()

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena in use, by TFLM's own accounting (of this 64-bit build). Where the frozen layers run apart
        they include the structures of a second allocator, which a board does not have."""
        return self._interpreter.arena_bytes

    def _no_input(self) -> np.ndarray:
        dtype = np.int8 if self.model.input_quantization is not None else np.float32
        return np.zeros(self.model.input_shape, dtype=dtype)

    def _pass(self, x: np.ndarray, target: np.ndarray, command: np.ndarray) -> np.ndarray:
        """One forward pass; returns the report (int32[8])."""
        return self._interpreter.run(x, target, command)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, previous if previous is not None else signal.SIG_DFL)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous if previous is not None else signal.SIG_DFL)
