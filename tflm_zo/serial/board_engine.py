# SPDX-License-Identifier: Apache-2.0
"""The engine that is a board: the host streams samples, the passes run there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tflm_zo.board.memory import board_trees
from tflm_zo.errors import ZoError
from tflm_zo.model.labels import PLAIN
from tflm_zo.ops.options import LOSS_CROSS_ENTROPY
from tflm_zo.patching.frozen_prefix import layer_count, split
from tflm_zo.patching.patched_model import PatchedModel, model_hash
from tflm_zo.serial.device import Device
from tflm_zo.serial.link import BoardRestarted, position_of
from tflm_zo.tflm.arena import plan_arena
from tflm_zo.tflm.layouts import TFLM_32
from tflm_zo.training.engine import (
    Advance,
    Engine,
    Executions,
    Labelled,
    Position,
    Scored,
    StepSettings,
    Store,
    said_classes,
)
from tflm_zo.training.engines import make_engine
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.local_engine import make_schedule
from tflm_zo.training.rates import Rates
from tflm_zo.training.recipe import Recipe
from tflm_zo.training.step_totals import StepTotals
from tflm_zo.training.training_state import Snapshot


class BoardEngine(Engine):
    """The board ``device``, which runs ``model`` (:meth:`Device.read_model`).

    ``checkpoints``: the board saves the weights in its flash at the start of a fit and whenever the guard finds better
    ones (without a guard: after each epoch); a board that starts anew then goes on from there. Raises :class:`ZoError`
    if the board runs another model. Methods raise :class:`~tflm_zo.serial.link.BoardRestarted` if it has started anew.
    """

    def __init__(self, device: Device, model: PatchedModel, checkpoints: bool = True) -> None:
        super().__init__(model)
        self.device = device
        self.store = self.checkpoints = BoardStore(device, checkpoints, self._say_steps)
        self._say: Callable[[int], None] | None = None
        if model_hash(model.data) != device.hello.model_hash:
            raise ZoError("the board runs another model: export and flash this one")

    # -- passes --------------------------------------------------------------------------------------------

    def predict(self, codes: np.ndarray) -> np.ndarray:
        """See :meth:`Engine.predict`."""
        outputs = [np.frombuffer(self.device.infer(code)[1], self.model.output.dtype) for code in codes]
        return np.stack(outputs).reshape(len(codes), *self.model.output_shape[1:])

    def evaluate(self, samples: Labelled) -> Scored:
        """See :meth:`Engine.evaluate`; a second pass for samples whose answer the report leaves open."""
        pairs = zip(samples.codes, samples.targets, strict=True)
        found = [self.device.evaluate(code, target) for code, target in pairs]
        losses = np.array([one.loss for one in found], dtype=np.float32)
        if not self.model.loss.classes:
            return Scored(losses, None)
        classes = np.array([one.prediction for one in found])
        if self.model.loss.positions > 1:  # a board names one class a sample, so the cells take a pass of their own
            return Scored(losses, said_classes(self.model, self.predict(samples.codes), classes))
        labels = samples.targets[:, 0]
        close = np.flatnonzero((labels >= 0) & _close_calls(self.model, losses, classes == labels))
        if len(close):
            classes[close] = said_classes(self.model, self.predict(samples.codes[close]), classes[close])
        return Scored(losses, classes)

    # -- training ------------------------------------------------------------------------------------------

    def check(self, settings: StepSettings) -> None:
        """See :meth:`Engine.check`."""
        make_schedule(settings, 0.0)
        capacity = self.device.hello.batch_capacity
        if settings.batch > capacity:
            raise ZoError(f"batch_size is {settings.batch}, but the board has memory for {capacity} samples")

    def measure(self, recipe: Recipe, hyper: Hyperparameters, samples: Labelled, *, epochs: int, seed: int) -> Rates:
        """See :meth:`Engine.measure`: on this machine, with the weights that the board has, to the bit what it would
        measure. A run that is taken up has begun with the weights that the model was patched with."""
        here = self._twin()
        if not self.checkpoints.adopted:
            here.write(self.read())
        return here.measure(recipe, hyper, samples, epochs=epochs, seed=seed)

    def _twin(self) -> Engine:
        """An engine on this machine that gives the board's bits."""
        return make_engine("auto", self.model)

    def configure(self, recipe: Recipe, settings: StepSettings, head_rate: float, step: int) -> None:
        """See :meth:`Engine.configure`."""

        def say(step: int) -> None:
            self.device.set_schedule(
                run=settings.run,
                step=step,
                seed=settings.seed,
                antithetic=settings.antithetic,
                exact=settings.exact,
                head_rate=head_rate,
                accumulate=settings.accumulate,
                groups=list(settings.groups),
                batch=settings.batch,
            )
            for index, parameter in recipe.parameters.items():
                self.device.set_parameter(index, parameter.sigma, parameter.rate or 0.0, parameter.mask)
            for number, node in recipe.nodes.items():
                self.device.set_node(number, node.sigma, node.block, node.rate or 0.0, node.mask)

        self.checkpoints.run = settings.run
        self._say = say
        say(step)

    def _say_steps(self, step: int) -> None:
        """Say again what the steps are made of, to a board that has started anew."""
        if self._say is not None:
            self._say(step)

    def step(self, samples: Labelled, batch: np.ndarray, step: int, rate_scale: float, advance: Advance) -> StepTotals:
        """See :meth:`Engine.step`: the board goes through the passes of a batch by itself."""
        self.device.begin_batch()
        for index in batch:
            self.device.add_sample(samples.codes[index], samples.targets[index])
        shown = _Shown(advance)
        totals = self.device.end_batch(step, rate_scale, shown)
        shown(totals)
        return totals

    def finish(self, samples: Labelled) -> int:
        """See :meth:`Engine.finish`."""
        return self.device.finish()

    # -- weights -------------------------------------------------------------------------------------------

    def read(self) -> Snapshot:
        """See :meth:`Engine.read`; a board does not tell momentum states."""
        return Snapshot([self.device.read_weights(p).reshape(-1) for p in self.model.parameters], {})

    def write(self, snapshot: Snapshot) -> None:
        """See :meth:`Engine.write`; also raises for momentum states."""
        if any(np.any(moments) for moments in snapshot.moments.values()):
            raise ZoError("momentum states cannot be sent to a board: train there from its own weights")
        self._twin().write(snapshot)  # refuses what the board would refuse, before anything is sent
        for parameter in self.model.parameters:
            self.device.write_weights(parameter, snapshot.values[parameter.index])

    def reset(self) -> None:
        """See :meth:`Engine.reset`; removes the board's checkpoints, too."""
        self.device.factory_reset()

    def recalibrate(self, codes: np.ndarray) -> None:
        """See :meth:`Engine.recalibrate`. A board that starts anew meanwhile has lost what it has observed."""
        self.device.begin_observation()
        for code in codes:
            self.device.observe(code)
        self.device.recalibrate()

    # -- what it costs -------------------------------------------------------------------------------------------

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena that the model needs on a board, as ``tflm-zo plan`` works them out."""
        return plan_arena(board_trees(self.model.data, split(self.model.data)), TFLM_32, cmsis_nn=True).used

    def executions(self) -> Executions:
        """See :meth:`Engine.executions`."""
        metrics, parts = self.device.metrics(), split(self.model.data)
        if parts is None:
            return Executions(metrics.passes * layer_count(self.model.data), 0)
        done = metrics.passes * parts.suffix_layers + metrics.frozen_runs * parts.prefix_layers
        return Executions(done, (metrics.passes - metrics.frozen_runs) * parts.prefix_layers)


def _close_calls(model: PatchedModel, losses: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of which samples (bool (n,)) the output might say another class than the report, whose prediction is ``right`` or
    not.

    The report has the largest logit, and outputs whose logits differ may have the same code of 1/256. The loss tells
    how far the label's probability is from that of the others.
    """
    loss = model.loss
    if model.outputs.ending == PLAIN:  # the output is the logits
        return np.zeros(len(losses), dtype=bool)
    if loss.kind != LOSS_CROSS_ENTROPY:
        return np.ones(len(losses), dtype=bool)
    p = np.exp(-losses.astype(np.float64))
    with np.errstate(divide="ignore"):
        ahead = np.log(p) - np.log1p(-p)  # of all others together
        behind = np.log1p(-p) - np.log(loss.classes - 1) - np.log(p)  # at least, of the best of the others
    # Rounded outputs, and logits that are rounded where the loss is not.
    margin = loss.scale + (loss.classes + 16) / 256
    return np.asarray(np.where(right, ahead, behind) < margin)


class BoardStore(Store):
    """The checkpoints in a board's flash, if it ``saves`` any; ``say_steps`` configures a board that has started anew,
    for a step."""

    def __init__(self, device: Device, saves: bool, say_steps: Callable[[int], None]) -> None:
        self._device, self._say_steps = device, say_steps
        self.saves = saves
        self.saved_step = -1
        self.run = 0
        self.adopted = False

    @property
    def position(self) -> Position:
        """See :attr:`Store.position`."""
        return position_of(self._device.hello)

    def save(self, step: int) -> None:
        """See :meth:`Store.save`."""
        try:
            self._device.checkpoint()
        except BoardRestarted as restarted:
            if (restarted.position.run, restarted.position.steps) != (self.run, step):
                raise  # before it was complete: these weights are lost
            self._say_steps(step)
        self.saved_step = step

    def restore(self, step: int | None = None) -> Position:
        """See :meth:`Store.restore`."""
        while True:
            try:
                found = self._device.restore()
                if step is not None:
                    # The checkpoint then says how far the training has come, not only how far it had come.
                    self._say_steps(step)
                    self._device.checkpoint()
                    self.saved_step = step
                return replace(self.position, run=found.run, steps=found.steps)
            except BoardRestarted:
                pass  # with the checkpoint


class _Shown:
    """Tells of passes as a batch goes on."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._passes = 0

    def __call__(self, so_far: StepTotals) -> None:
        self._advance(so_far.passes - self._passes)
        self._passes = so_far.passes
