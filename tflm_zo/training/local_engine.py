# SPDX-License-Identifier: Apache-2.0
"""What engines have in common whose ops run in this process."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.ops.command import INITIALISE, REPORT_DTYPE, make_command
from tflm_zo.ops.compiled import OpState, Schedule
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.training.engine import Engine, Labelled, StepSettings
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.probing import measure_rates
from tflm_zo.training.rates import Rates
from tflm_zo.training.recipe import Recipe
from tflm_zo.training.training_state import Snapshot


class LocalEngine(Engine):
    """An engine whose passes are commanded one by one, and whose ops' state lies in this process's memory."""

    def __init__(self, model: PatchedModel) -> None:
        super().__init__(model)
        self._schedule: Schedule | None = None
        self.no_target = np.zeros(model.target_shape, dtype=model.target_dtype)
        self._empty_pass(make_command())  # the parameter op begins the session
        self._state = OpState(self._state_address())

    @abstractmethod
    def _state_address(self) -> int:
        """The address of the parameter op's state, as the library says that made it. The report has one, too, but what
        a stranger's model writes there is not to be believed."""

    @abstractmethod
    def run(self, x: np.ndarray, target: np.ndarray, command: np.ndarray) -> np.void:
        """One forward pass on input codes ``x`` with ``target`` and ``command`` (int32[20]); returns the report, a
        :data:`~tflm_zo.ops.command.REPORT_DTYPE`."""

    def check(self, settings: StepSettings) -> None:
        """See :meth:`Engine.check`."""
        make_schedule(settings, 0.0)

    def measure(self, recipe: Recipe, hyper: Hyperparameters, samples: Labelled, *, epochs: int, seed: int) -> Rates:
        """See :meth:`Engine.measure`."""
        self._set_steps(recipe.with_rates(Rates()))
        try:
            return measure_rates(
                self.model, recipe, hyper, self.run, samples.codes, samples.targets, epochs=epochs, seed=seed
            )
        finally:
            self._state.restore_clean()

    def configure(self, recipe: Recipe, settings: StepSettings, head_rate: float, step: int) -> None:
        """See :meth:`Engine.configure`."""
        self._schedule = make_schedule(settings, head_rate)
        self._set_steps(recipe)

    def _set_steps(self, recipe: Recipe) -> None:
        """Set sigma and learning rate of every parameter and node, as the recipe has checked them."""
        for index, setting in recipe.parameters.items():
            self._state.configure(index, setting.sigma, setting.rate or 0.0, setting.mask)
        for number, node in recipe.nodes.items():
            self._state.configure_node(number, node.sigma, node.block, node.rate or 0.0, node.mask)

    @property
    def schedule(self) -> Schedule:
        """The order of passes of the steps that were configured."""
        if self._schedule is None:
            raise ZoError("the engine has not been configured for a training")
        return self._schedule

    def finish(self, samples: Labelled) -> int:
        """See :meth:`Engine.finish`."""
        if not self.schedule.flush():
            return 0
        self.run(samples.codes[0], samples.targets[0], self.schedule.command)
        return 1

    def abandon_step(self) -> None:
        """See :meth:`Engine.abandon_step`."""
        self._state.restore_clean()

    def read(self) -> Snapshot:
        """See :meth:`Engine.read`."""
        self._state.restore_clean()
        values = [self._state.view(p.index).copy() for p in self.model.parameters]
        moments = {p.index: self._state.moments(p.index).copy() for p in self.model.parameters if p.moments}
        return Snapshot(values, moments)

    def _weights_are_set(self) -> None:
        """Called where weights are about to change otherwise than by a step of the training."""

    def write(self, snapshot: Snapshot) -> None:
        """See :meth:`Engine.write`."""
        self._weights_are_set()
        before = self.read()
        for parameter, values in zip(self.model.parameters, snapshot.values, strict=True):
            if not self._state.write(parameter.index, values):
                self.write(before)
                raise ZoError(f"values of {parameter.name} are out of range")
        for index, moments in snapshot.moments.items():
            self._state.moments(index)[:] = moments

    def reset(self) -> None:
        """See :meth:`Engine.reset`."""
        self._weights_are_set()
        self._empty_pass(make_command(INITIALISE))

    def recalibrate(self, codes: np.ndarray) -> None:
        """See :meth:`Engine.recalibrate`."""
        self._weights_are_set()
        if not self._state.recalibrate(codes):
            raise ZoError("recalibration needs an input adapter with a reference, and at least 2 samples")

    def _empty_pass(self, command: np.ndarray) -> np.void:
        return self.run(np.zeros(self.model.input_shape, dtype=self.model.input.dtype), self.no_target, command)


def as_report(words: np.ndarray) -> np.void:
    """Return the report (:data:`~tflm_zo.ops.command.REPORT_DTYPE`) that ``words`` (int32[8]) hold."""
    return np.ascontiguousarray(words).view(REPORT_DTYPE)[0]


def make_schedule(settings: StepSettings, head_rate: float) -> Schedule:
    """Return the order of passes of such steps. Raises :class:`ZoError` if they cannot be run."""
    return Schedule(
        seed=settings.seed,
        antithetic=settings.antithetic,
        exact=settings.exact,
        head_rate=head_rate,
        accumulate=settings.accumulate,
        groups=settings.groups,
        batch=settings.batch,
    )
