# SPDX-License-Identifier: Apache-2.0
"""Trainers by the engine that they use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from tflm_zo.patching.patched_model import read_patched
from tflm_zo.serial.board_engine import BoardEngine
from tflm_zo.serial.device import Device
from tflm_zo.training.trainer import Trainer

TflmTrainer: Callable[..., Trainer] = partial(Trainer, engine="tflm")
SimTrainer: Callable[..., Trainer] = partial(Trainer, engine="simulator")


def board_trainer(device: Device, seed: int = 0, checkpoints: bool = True) -> Trainer:
    """A trainer of the board ``device``, with the model that it runs."""
    model = read_patched(device.read_model())
    return Trainer(model.data, seed, engine=BoardEngine(device, model, checkpoints))


def device_of(trainer: Trainer) -> Device:
    """The board that a trainer trains."""
    assert isinstance(trainer.engine, BoardEngine)
    return trainer.engine.device


def values_of(trainer: Trainer) -> dict[str, np.ndarray]:
    """Everything that training changes, by name: weights, residuals; momentum states as ``name moments``."""
    found = trainer.engine.read()
    values = {p.name: found.values[p.index].reshape(p.shape) for p in trainer.model.parameters}
    return values | {f"{trainer.model.parameters[i].name} moments": m for i, m in found.moments.items()}
