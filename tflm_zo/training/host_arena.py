# SPDX-License-Identifier: Apache-2.0
"""What a model takes of TFLM's arena on a 64-bit host."""

from __future__ import annotations

from tflm_zo.model.file import load_model
from tflm_zo.patching.frozen_prefix import split
from tflm_zo.tflm import wheel
from tflm_zo.tflm.arena import plan_arena
from tflm_zo.tflm.layouts import WHEEL_64
from tflm_zo.training.tflm_passes import TrainingInterpreter


def host_arena_bytes(model: bytes) -> int:
    """Return the bytes of the arena that ``model``, patched or not, needs to run in TFLM on a 64-bit host.

    TFLM's own accounting where its wheel is, else the plan of it, which differs by 64 bytes at most. Raises
    :class:`~tflm_zo.errors.ZoError` if TFLM cannot run the model, or its arena cannot be planned.
    """
    if wheel.available():
        return TrainingInterpreter(model).arena_bytes
    parts = split(model)
    if parts is None:
        return plan_arena([load_model(model)], WHEEL_64).used
    # The wheel cannot share an arena: it has a second set of the allocator's structures.
    trees = [load_model(data) for data in (parts.suffix, parts.prefix)]
    return plan_arena(trees, WHEEL_64).used + sum(WHEEL_64.fixed)
