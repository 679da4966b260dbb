# SPDX-License-Identifier: Apache-2.0
"""Training a board from the host: the fit of :class:`~tflm_zo.training.trainer.Trainer`, with its passes on the
board."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.samples import input_codes
from tflm_zo.ops import compiled as plugin
from tflm_zo.ops.command import LOSS, make_command
from tflm_zo.ops.step import Exact
from tflm_zo.patching.frozen_prefix import layer_count, split
from tflm_zo.patching.patched_model import Parameter, read_patched
from tflm_zo.progress_bar import ProgressBar
from tflm_zo.serial.device import Device, model_hash
from tflm_zo.serial.link import BoardRestarted
from tflm_zo.serial.messages import Hello
from tflm_zo.training.fit_plan import FitPlan
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.rates import Rates
from tflm_zo.training.recipe import Recipe
from tflm_zo.training.samples import sample_codes
from tflm_zo.training.step_totals import StepTotals
from tflm_zo.training.trainer import Callback, History, Trainer, Work
from tflm_zo.training.training_state import Progress, Snapshot
from tflm_zo.training.watch import Watch, WatchState, restore, state_of


class RemoteTrainer(Trainer):
    """A :class:`Trainer` whose engine is a board: the host streams samples, the passes run there.

    ``model`` is the patched model on the board (:meth:`Device.read_model`); ``seed`` fixes every random choice.
    Raises :class:`ZoError` if the board runs another model. From the factory weights, the same samples, seed and
    hyperparameters give the same weights as on the host, to the bit.
    """

    def __init__(self, device: Device, model: bytes, seed: int = 0) -> None:
        # Not the base class's: its interpreter would run the model here.
        self.model = read_patched(model)
        self.seed = seed
        self.progress = Progress()
        self._reset_fit()
        self._device = device
        self._classes = self.model.loss.classes > 0
        self._evaluate = make_command(LOSS)
        self._state: Any = _BoardState()
        self._run = 0
        self._first_step = 0
        self._checkpoints = True
        self._resumed = False
        # The run that this object has begun or taken up, and where its newest checkpoint stands.
        self._known_run = 0
        self._checkpoint_step = -1
        self._mark: _Mark | None = None
        self._recipe = Recipe(Exact.NOTHING)
        self._settings: dict[str, Any] = {}
        if model_hash(model) != device.hello.model_hash:
            raise ZoError("the board runs another model: export and flash this one")

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray | None = None,
        *,
        validation_data: tuple[np.ndarray, np.ndarray | None] | None = None,
        callbacks: Sequence[Callback] = (),
        verbose: bool = True,
        resume: bool = False,
        checkpoints: bool = True,
        patience: int | None = None,
        **hyperparameters: Any,
    ) -> History:
        """Train the board; see :meth:`Trainer.fit`.

        resume: go on with a fit of the same samples, seed and hyperparameters that the board is in, or has in its
        checkpoint; a fit with a guard goes on in the object that began it, in another one only from its start.
        checkpoints: save the weights in the board's flash at the start and whenever the guard finds better
        ones (without a guard: after each epoch); a board that starts anew then goes on from there. patience: end after
        so many epochs without a lower training loss.

        Also raises :class:`ZoError` if the board refuses, is gone, or has no room for a batch.
        """
        self._checkpoints = checkpoints
        self._resumed = False
        if not resume:
            self._first_step = self.progress.step
            self._mark = None
        hyper = Hyperparameters(**hyperparameters)
        hyper.check()
        self._run = self._name_of_run(x, y, hyper)
        patient = [] if patience is None else [_Patience(patience)]
        return super().fit(
            x,
            y,
            validation_data=validation_data,
            callbacks=[*callbacks, *patient],
            verbose=verbose,
            resume=resume,
            **hyperparameters,
        )

    def recalibrate(self, x: np.ndarray, *, checkpoint: bool = True) -> None:
        """Undo a drift of the board's sensor; see :meth:`Trainer.recalibrate`.

        checkpoint: save the weights in the board's flash afterwards. Raises :class:`ZoError` also if the board
        refuses, is gone, or has started anew, which loses what it has observed.
        """
        codes = self.recalibration_codes(x)
        self._device.begin_observation()
        for code in codes:
            self._device.observe(code)
        self._device.recalibrate()
        if checkpoint:
            self._device.checkpoint()

    def _name_of_run(self, x: np.ndarray, y: np.ndarray | None, hyper: Hyperparameters) -> int:
        """A number (not 0) by which the board's progress is known to belong to these arguments."""
        codes, targets = sample_codes(x, y, self.model)
        what = repr((self._device.hello.model_hash, self.seed, self._first_step, sorted(vars(hyper).items())))
        return zlib.crc32(targets.tobytes(), zlib.crc32(codes.tobytes(), zlib.crc32(what.encode()))) or 1

    def _take_up(self, hello: Hello, batches: int) -> None:
        """Go on where the board is; ``batches``: of an epoch."""
        found = hello.progress
        if found.run != self._run:
            raise ZoError(
                f"the board holds nothing of this run ({hello.message}): start without resuming, or with the samples, "
                "seed and options that it was started with"
            )
        done = found.steps - self._first_step
        if self._mark is not None:
            marked = self._mark.progress
            done = marked.epoch * batches + marked.batch + found.steps - marked.step
        epoch, batch = divmod(done, batches)
        self.progress = Progress(epoch, batch, found.steps, self.progress.passes, self.progress.rates)
        self.progress.passes += self._device.finish()

    def _schedule(self, recipe: Recipe, hyper: Hyperparameters, plan: FitPlan) -> plugin.Schedule:
        schedule = super()._schedule(recipe, hyper, plan)  # refuses what cannot be run
        capacity = self._device.hello.batch_capacity
        if plan.batch_size > capacity:
            raise ZoError(f"batch_size is {plan.batch_size}, but the board has memory for {capacity} samples")
        self._settings = {
            "seed": self.seed,
            "antithetic": hyper.antithetic,
            "exact": recipe.exact,
            "accumulate": any(node.accumulates for node in self.model.nodes),
            "groups": recipe.groups,
            "batch": plan.batch_size,
        }
        return schedule

    def _configure(self, recipe: Recipe) -> None:
        self._recipe, self._known_run = recipe, self._run
        device, rate = self._device, self.progress.head_lr or 0.0
        device.set_schedule(run=self._run, step=self.progress.step, head_rate=rate, **self._settings)
        for index, setting in recipe.parameters.items():
            device.set_parameter(index, setting.sigma, setting.rate or 0.0, setting.mask)
        for number, node in recipe.nodes.items():
            device.set_node(number, node.sigma, node.block, node.rate or 0.0, node.mask)
        if self._checkpoints and self.progress.step == self._first_step:
            self._checkpoint()  # a board that starts anew, or a run that is taken up, finds its beginning

    def _checkpoint(self) -> None:
        self._device.checkpoint()
        self._checkpoint_step = self.progress.step

    def _phase(self, work: Work, plan: FitPlan) -> bool:
        """A board that starts anew goes on from its newest checkpoint, and so does what belongs to it here."""
        while True:
            try:
                return super()._phase(work, plan)
            except BoardRestarted as restarted:
                if not self._checkpoints:
                    raise
                self._take_up(restarted.hello, plan.batches)
                if self._mark is not None:
                    restore(work.watch, self._mark.guard)
                    del work.history.epochs[self._mark.epochs :]
                self._configure(self._recipe)

    def _come_to(self, watch: Watch, history: History) -> None:
        if self._checkpoint_step == self.progress.step:
            self._mark = _Mark(replace(self.progress), state_of(watch), len(history.epochs))

    def _step(self, work: Work, batch: np.ndarray, rate_scale: float) -> StepTotals:
        """The board goes through the passes of a batch by itself."""
        device = self._device
        device.begin_batch()
        for index in batch:
            device.add_sample(work.codes[index], work.targets[index])
        shown = _Shown(work.bar)
        totals = device.end_batch(self.progress.step, rate_scale, shown)
        shown(totals)
        return totals

    def _finish(self, work: Work) -> None:
        self.progress.passes += self._device.finish()
        if self._checkpoints and not work.watch.unjudged:
            self._checkpoint()

    # -- what the host's trainer keeps in memory, a board keeps in its flash ----------------------------------------

    def _take_up_fit(self, plan: FitPlan, watch: Watch) -> None:
        self._resumed = True
        if self._known_run == self._run:
            super()._take_up_fit(plan, watch)
            return
        hello = self._device.hello
        if watch.guards and hello.progress.run == self._run and hello.progress.steps != self._first_step:
            # The present weights are not judged yet, and how those of the checkpoint were only their host knows.
            if self._device.restore().steps != self._first_step:
                raise ZoError(
                    "the board has the best weights of this run so far, but only the host that began it can go on: "
                    "start without resuming, from these weights, or train with holdout 0"
                )
            self.progress = Progress(step=self._first_step)
            return
        self._take_up(hello, plan.batches)

    def _measure(
        self, recipe: Recipe, hyper: Hyperparameters, codes: np.ndarray, targets: np.ndarray, epochs: int
    ) -> Rates:
        """Rates are measured on this machine, with the weights that the board has: to the bit what it would measure.

        A run that is taken up has begun with the factory weights.
        """
        here = Trainer(self.model.data, self.seed)
        if not self._resumed:
            here._write(self._snapshot())
        rates = here._measure(recipe, hyper, codes, targets, epochs)
        self.progress.passes += here.progress.passes
        return rates

    def keep(self) -> None:
        """Remember the present weights as the best of the fit in work: in the board's flash, or else here."""
        if not self._checkpoints:
            super().keep()
            return
        try:
            self._checkpoint()
        except BoardRestarted as restarted:
            found = restarted.hello.progress
            if (found.run, found.steps) != (self._run, self.progress.step):
                raise  # before it was complete: these weights are lost
            self._checkpoint_step = self.progress.step
            self._configure(self._recipe)

    def return_to_kept(self) -> None:
        """Bring back the weights that :meth:`keep` remembered."""
        if not self._checkpoints:
            super().return_to_kept()
            return
        while True:
            try:
                self._device.restore()
                # The checkpoint then says how far the training has come, not only how far it had come.
                self._configure(self._recipe)
                self._checkpoint()
                return
            except BoardRestarted:
                pass  # with the checkpoint

    def _set_aside(self) -> None:
        """With checkpoints the run goes on from the newest one, and comes to the same weights."""
        if not self._checkpoints or self._mark is None:
            super()._set_aside()
            return
        marked = self._mark.progress
        self.progress = replace(self.progress, epoch=marked.epoch, batch=marked.batch, step=marked.step)
        self._watch, self._watch_state = None, self._mark.guard

    def _snapshot(self) -> Snapshot:
        return Snapshot([self._tensor(p).reshape(-1) for p in self.model.parameters], {})

    def _write(self, snapshot: Snapshot) -> None:
        for parameter in self.model.parameters:
            self._device.write_weights(parameter, snapshot.values[parameter.index])

    def _pass(self, x: np.ndarray, target: np.ndarray, command: np.ndarray) -> np.ndarray:
        """One pass that computes the loss, as evaluation needs it; all others the board does by itself."""
        found = self._device.evaluate(x, target)
        report = np.zeros(4, dtype=np.int32)
        report[1:2].view(np.float32)[0] = found.loss
        report[2] = found.prediction
        report[3:4].view(np.float32)[0] = found.feature_energy
        return report

    def _executions(self) -> tuple[int, int]:
        return 0, 0  # they begin anew where the board does: see layer_executions

    def layer_executions(self) -> tuple[int, int]:
        """Return how many layers the board has executed since it started, all passes together, and how many more it
        would have been if its frozen layers had run in every pass."""
        metrics, parts = self._device.metrics(), split(self.model.data)
        if parts is None:
            return metrics.passes * layer_count(self.model.data), 0
        done = metrics.passes * parts.suffix_layers + metrics.frozen_runs * parts.prefix_layers
        return done, (metrics.passes - metrics.frozen_runs) * parts.prefix_layers

    def _predicted_class(self, reported: int) -> int:
        return reported  # the board has looked at the int8 output

    def predict_codes(self, x: np.ndarray) -> np.ndarray:
        """Return the model's outputs for ``x`` as it stores them (int8 codes), shape (n, ...)."""
        codes = input_codes(x, self.model.input_shape, self.model.input_quantization)
        dtype = np.float32 if self.model.output_quantization is None else np.int8
        outputs = [np.frombuffer(self._device.infer(code)[1], dtype) for code in codes]
        return np.stack(outputs).reshape(len(codes), *self.model.output_shape[1:])

    def _tensor(self, parameter: Parameter) -> np.ndarray:
        return self._device.read_weights(parameter)

    def reset(self) -> None:
        """Bring back the exported weights, and remove the board's checkpoints."""
        self._device.factory_reset()
        self.progress = Progress()
        self._reset_fit()
        self._known_run = 0

    def save(self, path: Any) -> None:
        """Not for boards, which keep checkpoints of their own: raises :class:`ZoError`."""
        raise ZoError("a board keeps its checkpoints in its own flash")

    load = save

    @property
    def arena_bytes(self) -> int:
        """Not for boards: raises :class:`ZoError`."""
        raise ZoError("the arena of a board is what its sketch gives it: see `tflm-zo plan`")


@dataclass(frozen=True)
class _Mark:
    """What belongs to the board's newest checkpoint: progress, guard, the number of epochs in the history."""

    progress: Progress
    guard: WatchState
    epochs: int


class _BoardState:
    """Stands for the ops' state, which a board keeps clean by itself between requests."""

    def restore_clean(self) -> None:
        pass


class _Shown:
    """Brings a progress bar to where a batch is."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._passes = 0

    def __call__(self, so_far: StepTotals) -> None:
        self._bar.advance(so_far.passes - self._passes)
        self._passes = so_far.passes


class _Patience:
    """Ends a fit after ``epochs`` epochs without a lower training loss."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._best = float("inf")
        self._since = 0

    def __call__(self, trainer: Trainer, logs: dict[str, float]) -> bool:
        # A board adds losses up in single precision: the last digits depend on the order of the samples.
        lower = logs["loss"] < 0.9999 * self._best
        self._best = logs["loss"] if lower else self._best
        self._since = 0 if lower else self._since + 1
        return self._since >= self._epochs
