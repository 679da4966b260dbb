# SPDX-License-Identifier: Apache-2.0
"""The engine that simulates TFLM: the same bits, much sooner."""

from __future__ import annotations

import weakref

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.samples import spread_over
from tflm_zo.ops.command import COMMAND_DTYPE, LOSS, make_command
from tflm_zo.patching.bake import bake
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.tflm import wheel
from tflm_zo.tflm.interpreter import Interpreter
from tflm_zo.training.engine import Advance, Labelled, Scored, StepSettings, said_classes
from tflm_zo.training.host_arena import host_arena_bytes
from tflm_zo.training.local_engine import LocalEngine
from tflm_zo.training.recipe import Recipe
from tflm_zo.training.sim_passes import Samples, SimPasses
from tflm_zo.training.step_totals import StepTotals, sum_in_order

# Samples on which TFLM's outputs are compared with ours.
_CONFIRMED = 4


class SimulatorEngine(LocalEngine):
    """Carries out the passes of ``model`` in the simulator, those of a step through each layer together as far as they
    can.

    ``confirms``: whether :meth:`confirm` asks TFLM; searches, which confirm their winner, do without. Raises
    :class:`ZoError` for models with operators that the simulator does not know.
    """

    def __init__(self, model: PatchedModel, confirms: bool = True) -> None:
        self._passes = SimPasses(model)
        self._confirms = confirms
        self._passes_a_step = 0
        # Samples with what the layers that are not trained make of them.
        self._prepared: weakref.WeakKeyDictionary[Labelled, Samples] = weakref.WeakKeyDictionary()
        super().__init__(model)

    def _state_address(self) -> int:
        return self._passes.state_address

    def run(self, x: np.ndarray, target: np.ndarray, command: np.ndarray) -> np.void:
        """See :meth:`LocalEngine.run`."""
        samples = self._passes.samples(x[None], target[None])
        return self._passes.run(samples, command.view(COMMAND_DTYPE), np.zeros(1, dtype=np.int32))[0][0]

    def predict(self, codes: np.ndarray) -> np.ndarray:
        """See :meth:`Engine.predict`."""
        targets = np.repeat(self.no_target[None], len(codes), axis=0)
        return self._run_all(Labelled(codes, targets), make_command())[1]

    def evaluate(self, samples: Labelled) -> Scored:
        """See :meth:`Engine.evaluate`."""
        reports, outputs = self._run_all(samples, make_command(LOSS))
        if not self.model.loss.classes:
            return Scored(reports["loss"], None)
        return Scored(reports["loss"], said_classes(self.model, outputs, reports["prediction"]))

    def configure(self, recipe: Recipe, settings: StepSettings, head_rate: float, step: int) -> None:
        """See :meth:`Engine.configure`."""
        self._prepared.clear()
        self._passes_a_step = settings.passes_a_sample * settings.batch
        super().configure(recipe, settings, head_rate, step)

    def step(self, samples: Labelled, batch: np.ndarray, step: int, rate_scale: float, advance: Advance) -> StepTotals:
        """See :meth:`Engine.step`."""
        if samples not in self._prepared:
            self._prepared[samples] = self._passes.samples(samples.codes, samples.targets, cache=True)
        commands, places = self.schedule.whole_step(step, len(batch), rate_scale, self._passes_a_step)
        indices = batch[places]
        reports, _ = self._passes.run(self._prepared[samples], commands, indices)
        advance(len(indices))
        counts = self.model.loss.counts_right
        right = int(np.sum(reports["prediction"] == samples.targets[indices, 0])) if counts else 0
        return StepTotals(len(indices), sum_in_order(reports["loss"]), right)

    def _weights_are_set(self) -> None:
        self._prepared.clear()

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena that TFLM uses for this model on a 64-bit host."""
        return host_arena_bytes(self.model.data)

    def confirm(self, codes: np.ndarray) -> None:
        """See :meth:`Engine.confirm`: the trained model, baked, in the plain TFLM."""
        if not (self._confirms and wheel.available()):
            return
        some = codes[spread_over(len(codes), _CONFIRMED)]
        tflm = Interpreter(bake(self.model.data, dict(enumerate(self.read().values))))
        outputs = [tflm.run(sample, self.model.loss.output) for sample in some]
        if not np.array_equal(np.concatenate(outputs), self.predict(some)):
            raise ZoError(
                "the simulator and TFLite Micro give different outputs for the trained model: train it with the engine "
                "tflm, and please report this"
            )

    def _run_all(self, samples: Labelled, command: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reports and outputs of one pass for each sample."""
        commands = np.repeat(command.view(COMMAND_DTYPE), len(samples))
        native = self._passes.samples(samples.codes, samples.targets)
        reports, outputs = self._passes.run(native, commands, np.arange(len(samples)), want_outputs=True)
        assert outputs is not None
        return reports, outputs.reshape(len(samples), *self.model.output_shape[1:])
