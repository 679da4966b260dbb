# SPDX-License-Identifier: Apache-2.0
"""Training a patched model inside TFLM."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from tflm_zo import checkpoint, plugin
from tflm_zo.bake import bake
from tflm_zo.counter_random import permutation
from tflm_zo.errors import ZoError
from tflm_zo.files import read_bytes
from tflm_zo.fit_plan import FitPlan
from tflm_zo.interpreter import TrainingInterpreter
from tflm_zo.patched import Parameter, read_patched
from tflm_zo.progress import ProgressBar
from tflm_zo.recipe import Hyperparameters, Recipe, exact_rate, make_recipe
from tflm_zo.samples import dequantize, input_codes, sample_codes
from tflm_zo.totals import StepTotals, sum_in_order

# Samples that the exact layers' learning rate is taken from.
_PROBES = 32

Callback = Callable[["Trainer", dict[str, float]], Any]


@dataclass
class History:
    """What a fit did, one entry an epoch: ``loss``, ``accuracy`` (classes only), with validation data also
    ``val_loss`` and ``val_accuracy``, and ``passes``, the training passes so far. ``interrupted`` tells whether
    Ctrl-C or a callback ended it early.

    ``layer_executions`` counts how often TFLM executed a layer during the fit, validation included;
    ``saved_executions`` how many more it would have been without remembering what the frozen layers in front make of
    a sample. Both are 0 in the simulator, which does not count them, and for a
    board, which is asked otherwise."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False
    layer_executions: int = field(default=0, compare=False)
    saved_executions: int = field(default=0, compare=False)


@dataclass
class Progress:
    """Where a fit stands: epochs finished, batches finished in the present one, steps of all fits, passes, and the
    head's learning rate (fixed at the start of the fit)."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    passes: int = 0
    head_lr: float | None = None


@dataclass(frozen=True)
class Work:
    """What a fit goes through: input codes (n, ...), targets (n, ...), the order of passes; and where it is shown."""

    codes: np.ndarray
    targets: np.ndarray
    schedule: plugin.Schedule
    bar: ProgressBar


class Trainer:
    """A patched model that learns from labelled samples, with forward passes only.

    ``model`` is a patched model's bytes or path; ``seed`` fixes every random choice; ``arena_size`` in bytes
    (default: as much as needed). Raises :class:`ZoError` if the model cannot be trained or does not fit.

    Same model, samples, seed and hyperparameters give the same weights, to the bit.
    """

    def __init__(self, model: bytes | str | os.PathLike[str], seed: int = 0, arena_size: int | None = None) -> None:
        data = bytes(model) if isinstance(model, (bytes, bytearray)) else read_bytes(model)
        self.model = read_patched(data)
        self.seed = seed
        self.progress = Progress()
        self._interpreter = TrainingInterpreter(data, arena_size)
        self._classes = self.model.loss.classes > 0
        self._idle = plugin.make_command()
        self._evaluate = plugin.make_command(plugin.LOSS)
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
        :class:`~tflm_zo.recipe.Hyperparameters` explains.

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
        wants_rate = hyper.head_lr is None and recipe.exact
        probes = min(_PROBES, len(codes)) if wants_rate else 0
        plan = FitPlan(len(codes), hyper, recipe.passes_a_sample(hyper.antithetic), probes)
        schedule = self._schedule(recipe, hyper, plan)
        if not resume:
            self.progress = Progress(step=self.progress.step)
        rate = hyper.head_lr if hyper.head_lr is not None else self.progress.head_lr
        if rate is None and wants_rate:
            rate = exact_rate(self.model, self._feature_energies(codes[:probes], targets[:probes]), plan.epochs)
        if rate != self.progress.head_lr:
            # The first one was to refuse what cannot be scheduled before anything is changed.
            self.progress.head_lr = rate
            schedule = self._schedule(recipe, hyper, plan)
        self._configure(recipe)
        history = History()
        with _interruptible() as interrupt, ProgressBar(plan.total_passes, verbose) as bar:
            work = Work(codes, targets, schedule, bar)
            try:
                while self.progress.epoch < plan.epochs and not history.interrupted:
                    logs = self._epoch(work, plan, interrupt)
                    history.interrupted = interrupt.is_set()
                    if validation_data is not None and not history.interrupted:
                        scores = self.evaluate(*validation_data)
                        logs |= {f"val_{k}": v for k, v in scores.items()}
                    history.epochs.append(logs)
                    bar.show(logs)
                    for callback in callbacks:
                        history.interrupted |= bool(callback(self, logs))
            finally:
                # Also when an exception breaks off in the middle of a query.
                self._state.restore_clean()
        executed_now, saved_now = self._executions()
        history.layer_executions, history.saved_executions = executed_now - executed, saved_now - saved
        return history

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
            self._state.configure(index, *setting)
        for number, node in recipe.nodes.items():
            self._state.configure_node(number, *node.with_rate(self.progress.head_lr or 0.0))

    def _feature_energies(self, codes: np.ndarray, targets: np.ndarray) -> list[float]:
        """Squared length of the head's input for each sample; costs a pass for each."""
        energies = []
        for code, target in zip(codes, targets, strict=True):
            report = self._pass(code, target, self._evaluate)
            energies.append(float(report[3:4].view(np.float32)[0]))
            self.progress.passes += 1
        return energies

    def _epoch(self, work: Work, plan: FitPlan, interrupt: threading.Event) -> dict[str, float]:
        """Train on the batches that are left of the present epoch."""
        progress = self.progress
        order = permutation(self.seed, progress.epoch, len(work.codes))
        loss, right, count = 0.0, 0, 0
        scored = self._scored(work.targets)
        while progress.batch < plan.batches_in(progress.epoch) and not interrupt.is_set():
            batch = order[progress.batch * plan.batch_size :][: plan.batch_size]
            done = progress.epoch * plan.batches + progress.batch
            totals = self._step(work, batch, plan.rate_scale(done))
            loss, right, count = loss + totals.loss, right + totals.right, count + totals.passes
            progress.passes += totals.passes
            progress.batch += 1
            progress.step += 1
            work.bar.show({"loss": loss / count} | ({"accuracy": right / count} if scored else {}))
        self._finish(work)
        # More than that: the fit is resumed with larger batches or fewer passes.
        if progress.batch >= plan.batches_in(progress.epoch):
            progress.epoch, progress.batch = progress.epoch + 1, 0
        logs = {"loss": loss / count if count else float("nan"), "passes": progress.passes}
        if scored:
            logs["accuracy"] = right / max(count, 1)
        return logs

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
        loss, hits = 0.0, 0
        for sample, target in zip(codes, targets, strict=True):
            report = self._pass(sample, target, self._evaluate)
            loss += float(report[1:2].view(np.float32)[0])
            if self._classes:
                hits += self._predicted_class(int(report[2])) == int(target[0])
        scores = {"loss": loss / len(codes)}
        if self._scored(targets):
            scores["accuracy"] = hits / len(codes)
        return scores

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
        tensors = {p.name: self._tensor(p) for p in self.model.parameters}
        moments = {p.name: self._state.moments(p.index) for p in self.model.parameters if p.moments}
        checkpoint.save(path, self.model.data, self.seed, vars(self.progress), tensors, moments)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue from the checkpoint ``path``: its weights, seed and progress.

        Raises :class:`ZoError`, with nothing changed, if it is damaged or of another model.
        """
        saved = checkpoint.load(path, self.model)
        before = [self._tensor(p) for p in self.model.parameters]
        for parameter in self.model.parameters:
            if not self._state.write(parameter.index, saved.tensors[parameter.name]):
                for index, values in enumerate(before):
                    self._state.write(index, values)
                raise ZoError(f"{path}: values of {parameter.name} are out of range: the file is damaged")
        for parameter in self.model.parameters:
            if parameter.moments:
                self._state.moments(parameter.index)[:] = saved.moments[parameter.name]
        self.seed = saved.seed
        self.progress = Progress(**saved.progress)

    def reset(self) -> None:
        """Bring back the weights that the model was patched with, and start the steps anew."""
        self._pass(self._no_input(), self._no_target, plugin.make_command(plugin.INITIALISE))
        self.progress = Progress()

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
