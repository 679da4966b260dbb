# SPDX-License-Identifier: Apache-2.0
# Written by tools/generate_layouts.py from the C++ headers named below: change those, and run it again.
"""Structures and constants of the app that a board's memory is planned by."""

import enum

from tflm_zo.ops.native import F32, U32, Structure

# micro_app/src/app/checkpoint.h
CHECKPOINT_HEADER_SIZE = 32


class CheckpointStatus(enum.IntEnum):
    """``CheckpointStatus`` of ``micro_app/src/app/checkpoint.h``."""

    OK = 0
    NONE = 1
    OTHER_MODEL = 2
    OTHER_SIZE = 3
    TOO_LARGE = 4
    BAD_GEOMETRY = 5
    FLASH_FAILURE = 6


# micro_app/src/app/training_progress.h


class TrainingProgress(Structure):
    """``TrainingProgress`` of ``micro_app/src/app/training_progress.h``."""

    run: U32
    steps: U32
    passes: U32
    head_rate: F32


# micro_app/src/app/nano33ble.h
NANO33_BLE_FLASH_BYTES = 1048576
NANO33_BLE_CHECKPOINT_BYTES = 65536
