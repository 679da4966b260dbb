# SPDX-License-Identifier: Apache-2.0
"""The memory that a model takes on a board: arena, samples of a step, sums."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

from tflm_zo.model.file import load_model
from tflm_zo.ops.layouts import ChannelSum
from tflm_zo.patching.frozen_prefix import SplitModel
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.tflm.arena import plan_arena
from tflm_zo.tflm.layouts import ARDUINO_32, TFLM_32

# Added to what the plan says, for differences between versions of TFLM and of its kernels.
_ARENA_RESERVE = 0.03
_ARENA_GRAIN = 256
# Samples that one training step may have on the board, unless the caller wants another number.
DEFAULT_BATCH = 16
CHANNEL_SUM_BYTES = ctypes.sizeof(ChannelSum)


@dataclass(frozen=True)
class Share:
    """One part of a memory, in bytes."""

    name: str
    size: int


def board_trees(model: bytes, parts: SplitModel | None) -> list[Any]:
    """Return the models that a model is run as on a board, in the order in which they get their memory."""
    return [load_model(data) for data in ((model,) if parts is None else (parts.suffix, parts.prefix))]


def arena_size(model: bytes, parts: SplitModel | None, recent: bool) -> int:
    """Return the arena (bytes) that a model, split into ``parts``, is given on a board: the plan for
    CMSIS-NN's kernels, which need scratch memory, with a reserve of 3 percent, rounded up."""
    required = plan_arena(board_trees(model, parts), TFLM_32 if recent else ARDUINO_32, cmsis_nn=True).required
    return -(-int(required * (1 + _ARENA_RESERVE)) // _ARENA_GRAIN) * _ARENA_GRAIN


def batch_bytes(model: PatchedModel, parts: SplitModel | None, samples: int) -> int:
    """Return the memory that a board needs for the samples of a step, with their labels.

    Where the frozen layers make of a sample what is smaller, that is kept instead of it; the last one comes in whole.
    """
    whole = input_bytes(model) + target_bytes(model)
    return whole + (samples - 1) * kept_sample_bytes(model, parts)


def kept_sample_bytes(model: PatchedModel, parts: SplitModel | None) -> int:
    """Return the bytes that one more sample of a step takes on a board."""
    sample = input_bytes(model)
    return (sample if parts is None else min(sample, parts.kept_bytes)) + target_bytes(model)


def input_bytes(model: PatchedModel) -> int:
    """Return the bytes of one sample in the model's input tensor."""
    return model.input.bytes


def target_bytes(model: PatchedModel) -> int:
    """Return the bytes of one label in the model's target tensor."""
    return model.target_dtype.itemsize * math.prod(model.target_shape)


def reference_channels(model: PatchedModel) -> int:
    """Return how many channels a board adds up to recalibrate the input adapter, 0 if the model has no reference."""
    return 0 if model.reference is None else model.reference.mean.size
