# SPDX-License-Identifier: Apache-2.0
"""Training in the simulator: the weights of :class:`~tflm_zo.training.trainer.Trainer`, much sooner."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np

from tflm_zo.files import read_bytes
from tflm_zo.model.samples import input_codes
from tflm_zo.ops import compiled as plugin
from tflm_zo.ops.command import COMMAND_DTYPE, LOSS, make_command
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.training.fit_plan import FitPlan
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.recipe import Recipe
from tflm_zo.training.sim_passes import Samples, TrainingEngine
from tflm_zo.training.step_totals import StepTotals, sum_in_order
from tflm_zo.training.tflm_passes import TrainingInterpreter
from tflm_zo.training.trainer import History, Trainer, Work
from tflm_zo.training.training_state import Progress


class SimTrainer(Trainer):
    """A patched model that learns from labelled samples, in the simulator.

    Arguments, methods and results are those of :class:`~tflm_zo.training.trainer.Trainer`, to the bit; the passes of a
    step go through the layers together as far as they can. ``arena_size`` is checked against what TFLM needs. Raises
    :class:`ZoError` also for models with operators that the simulator does not know.
    """

    def __init__(self, model: bytes | str | os.PathLike[str], seed: int = 0, arena_size: int | None = None) -> None:
        data = bytes(model) if isinstance(model, (bytes, bytearray)) else read_bytes(model)
        self.model = read_patched(data)
        self.seed = seed
        self.progress = Progress()
        self._reset_fit()
        if arena_size is not None:
            TrainingInterpreter(data, arena_size)  # raises if it does not fit
        self._engine = TrainingEngine(self.model)
        self._classes = self.model.loss.classes > 0
        self._idle = make_command()
        self._evaluate = make_command(LOSS)
        self._no_target = np.zeros(self.model.target_shape, dtype=np.int32 if self._classes else np.int8)
        self._cached: Samples | None = None
        self._passes_a_step = 0
        report = self._pass(self._no_input(), self._no_target, self._idle)
        low, high = (int(v) & 0xFFFFFFFF for v in report[4:6])
        self._state = plugin.OpState(low | high << 32)

    def fit(self, *args: Any, **kwargs: Any) -> History:
        """Train as :meth:`Trainer.fit <tflm_zo.training.trainer.Trainer.fit>` does."""
        self._cached = None
        try:
            return super().fit(*args, **kwargs)
        finally:
            self._cached = None

    def _executions(self) -> tuple[int, int]:
        return 0, 0

    def _schedule(self, recipe: Recipe, hyper: Hyperparameters, plan: FitPlan) -> plugin.Schedule:
        self._cached = None  # the samples may be others, and other layers be trained
        self._passes_a_step = recipe.passes_a_sample(hyper.antithetic) * plan.batch_size
        return super()._schedule(recipe, hyper, plan)

    def _step(self, work: Work, batch: np.ndarray, rate_scale: float) -> StepTotals:
        if self._cached is None:
            self._cached = self._engine.samples(work.codes, work.targets, cache=True)
        commands, places = self._commands(work.schedule, len(batch), rate_scale)
        indices = batch[places]
        reports, _ = self._engine.run(self._cached, commands, indices)
        work.bar.advance(len(indices))
        right = int(np.sum(reports["prediction"] == work.targets[indices, 0])) if self._classes else 0
        return StepTotals(len(indices), sum_in_order(reports["loss"]), right)

    def _commands(self, schedule: plugin.Schedule, batch: int, rate_scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Commands of all passes of the next step, and which sample of the batch each is for."""
        commands = np.zeros(self._passes_a_step, dtype=COMMAND_DTYPE)
        places = np.zeros(self._passes_a_step, dtype=np.int32)
        step_at_once = plugin.library().tflm_zo_schedule_step
        count = step_at_once(
            schedule._handle,
            ctypes.c_uint32(self.progress.step),
            batch,
            ctypes.c_float(rate_scale),
            ctypes.c_void_p(commands.ctypes.data),
            ctypes.c_void_p(places.ctypes.data),
            len(commands),
        )
        if count < 0:
            raise AssertionError("a step has more passes than its recipe says")
        return commands[:count], places[:count]

    def predict_codes(self, x: np.ndarray) -> np.ndarray:
        """Return the model's outputs for ``x`` as it stores them (int8 codes), shape (n, ...)."""
        codes = input_codes(x, self.model.input_shape, self.model.input_quantization)
        targets = np.repeat(self._no_target[None], len(codes), axis=0)
        return self._run_all(codes, targets, self._idle)[1]

    def _losses(self, codes: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        reports, outputs = self._run_all(codes, targets, self._evaluate)
        if not self._scored(targets):
            return reports["loss"], None
        one_unit = self.model.loss.outputs == 1
        classes = reports["prediction"] if one_unit else outputs.reshape(len(codes), -1).argmax(axis=1)
        return reports["loss"], classes == targets[:, 0]

    def recalibrate(self, x: np.ndarray) -> None:
        """Undo a drift of the sensor as :meth:`Trainer.recalibrate <tflm_zo.training.trainer.Trainer.recalibrate>`
        does."""
        self._cached = None
        super().recalibrate(x)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue from the checkpoint ``path``, as :meth:`Trainer.load <tflm_zo.training.trainer.Trainer.load>`
        does."""
        self._cached = None
        super().load(path)

    def reset(self) -> None:
        """Bring back the weights that the model was patched with, and start the steps anew."""
        self._cached = None
        super().reset()

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena that TFLM uses for this model, by its own accounting (of this 64-bit build)."""
        return TrainingInterpreter(self.model.data).arena_bytes

    def _run_all(self, codes: np.ndarray, targets: np.ndarray, command: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reports and outputs of one pass for each sample."""
        commands = np.repeat(command.view(COMMAND_DTYPE), len(codes))
        samples = self._engine.samples(codes, targets)
        reports, outputs = self._engine.run(samples, commands, np.arange(len(codes)), want_outputs=True)
        assert outputs is not None
        return reports, outputs.reshape(len(codes), *self.model.output_shape[1:])

    def _pass(self, x: np.ndarray, target: np.ndarray, command: np.ndarray) -> np.ndarray:
        """One forward pass; returns the report (int32[8])."""
        samples = self._engine.samples(x[None], target[None])
        reports, _ = self._engine.run(samples, command.view(COMMAND_DTYPE), np.zeros(1, dtype=np.int32))
        return reports.view(np.int32)
