# SPDX-License-Identifier: Apache-2.0
"""The engine that is TFLM itself, by its Python wheel."""

from __future__ import annotations

import numpy as np

from tflm_zo.ops.command import LOSS, make_command
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.training.engine import Advance, Executions, Labelled, Scored, said_classes
from tflm_zo.training.local_engine import LocalEngine, as_report
from tflm_zo.training.step_totals import StepTotals, sum_in_order
from tflm_zo.training.tflm_passes import TrainingInterpreter


class TflmEngine(LocalEngine):
    """Carries out the passes of ``model`` one by one in TFLM; the layers in front of what is trained run once a sample.

    Raises :class:`ZoError` if TFLM cannot run the model.
    """

    def __init__(self, model: PatchedModel) -> None:
        self._interpreter = TrainingInterpreter(model.data)
        super().__init__(model)

    def _state_address(self) -> int:
        return self._interpreter.state_address

    def run(self, x: np.ndarray, target: np.ndarray, command: np.ndarray) -> np.void:
        """See :meth:`LocalEngine.run`."""
        return as_report(self._interpreter.run(x, target, command))

    def predict(self, codes: np.ndarray) -> np.ndarray:
        """See :meth:`Engine.predict`."""
        command, outputs = make_command(), []
        for sample in codes:
            self.run(sample, self.no_target, command)
            outputs.append(self._interpreter.output())
        return np.concatenate(outputs)

    def evaluate(self, samples: Labelled) -> Scored:
        """See :meth:`Engine.evaluate`."""
        command, losses, predictions, outputs = make_command(LOSS), [], [], []
        for sample, target in zip(samples.codes, samples.targets, strict=True):
            report = self.run(sample, target, command)
            losses.append(report["loss"])
            predictions.append(int(report["prediction"]))
            outputs.append(self._interpreter.output())
        known = self.model.loss.classes > 0
        classes = said_classes(self.model, np.concatenate(outputs), np.array(predictions)) if known else None
        return Scored(np.array(losses, dtype=np.float32), classes)

    def step(self, samples: Labelled, batch: np.ndarray, step: int, rate_scale: float, advance: Advance) -> StepTotals:
        """See :meth:`Engine.step`."""
        schedule, losses, right = self.schedule, [], 0
        counts = self.model.loss.counts_right
        for place in schedule.step(step, len(batch), rate_scale):
            codes, target = samples.codes[batch[place]], samples.targets[batch[place]]
            report = self.run(codes, target, schedule.command)
            losses.append(report["loss"])
            right += counts and int(report["prediction"]) == int(target[0])
            advance(1)
        return StepTotals(len(losses), sum_in_order(np.array(losses, dtype=np.float32)), right)

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena in use, by TFLM's own accounting (of this 64-bit build). Where the frozen layers run apart
        they include the structures of a second allocator, which a board does not have."""
        return self._interpreter.arena_bytes

    def executions(self) -> Executions:
        """See :meth:`Engine.executions`."""
        return Executions(self._interpreter.layer_executions, self._interpreter.saved_executions)
