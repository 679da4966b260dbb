# SPDX-License-Identifier: Apache-2.0
# Written by tools/generate_layouts.py from the C++ headers named below: change those, and run it again.
"""Parts of a training stream."""

import enum

from tflm_zo.ops.native import F32, I32, U32, Structure

# micro_app/src/app/training_stream.h
STREAM_MAGIC = 0x54534F5A
STREAM_VERSION = 3


class StreamHeader(Structure):
    """``StreamHeader`` of ``micro_app/src/app/training_stream.h``."""

    magic: U32
    version: U32
    input_bytes: U32
    target_bytes: U32


class StreamSchedule(Structure):
    """``StreamSchedule`` of ``micro_app/src/app/training_stream.h``."""

    largest_step: I32
    seed: U32
    antithetic: I32
    exact: I32
    head_rate: F32
    accumulate: I32
    group_count: I32


class StreamItem(enum.IntEnum):
    """``StreamItem`` of ``micro_app/src/app/training_stream.h``."""

    END = 0
    STEP = 1
    FINISH = 2
    EVALUATE = 3
    RECALIBRATE = 4


class StreamStep(Structure):
    """``StreamStep`` of ``micro_app/src/app/training_stream.h``."""

    step: U32
    samples: I32
    rate_scale: F32
