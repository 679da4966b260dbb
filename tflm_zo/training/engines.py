# SPDX-License-Identifier: Apache-2.0
"""Which engine trains a model on this machine."""

from __future__ import annotations

from tflm_zo.errors import ZoError
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.tflm import wheel
from tflm_zo.training.engine import Engine
from tflm_zo.training.simulator_engine import SimulatorEngine
from tflm_zo.training.tflm_engine import TflmEngine

# auto: the simulator where it knows all of the model's operators, else TFLM, where its wheel is.
ENGINES = ("auto", "tflm", "simulator")


def make_engine(name: str, model: PatchedModel) -> Engine:
    """Return the engine of that name (:data:`ENGINES`) for ``model``.

    Raises :class:`ZoError` for an unknown name, or if the engine cannot run the model.
    """
    if name not in ENGINES:
        raise ZoError(f"engine is {name!r}: it must be one of {', '.join(ENGINES)}, or an Engine")
    if name == "tflm":
        return TflmEngine(model)
    try:
        return SimulatorEngine(model)
    except ZoError:
        if name == "simulator" or not wheel.available():
            raise
    return TflmEngine(model)
