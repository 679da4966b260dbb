# SPDX-License-Identifier: Apache-2.0
"""The kernels' counter-based random numbers in NumPy, to the bit (see ``kernels/random.h``)."""

from __future__ import annotations

import numpy as np

from tflm_zo.ops import layouts
from tflm_zo.ops.layouts import Stream

GOLDEN_RATIO = np.uint32(layouts.GOLDEN_RATIO)


def mix32(x: np.ndarray) -> np.ndarray:
    """Bijective mixing of uint32 values (xor-shift-multiply, constants of C. Wellons)."""
    x = np.atleast_1d(np.asarray(x, dtype=np.uint32))
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def stream_key(seed: int, stream: Stream, a: int, b: int) -> np.uint32:
    """Return the key of stream (purpose, a, b) under ``seed``."""

    def words(value: int) -> np.ndarray:
        return np.array([value & 0xFFFFFFFF], dtype=np.uint32)

    key = mix32(words(seed) + words(int(stream)) * GOLDEN_RATIO)
    key = mix32(key ^ (words(a) * GOLDEN_RATIO + np.uint32(0x7F4A7C15)))
    return mix32(key ^ (words(b) * GOLDEN_RATIO + np.uint32(0x85EBCA6B)))[0]


def random_words(key: np.uint32, counters: np.ndarray) -> np.ndarray:
    """Return the uint32 words at ``counters`` of the stream ``key``."""
    return mix32(np.uint32(key) + np.asarray(counters, dtype=np.uint32) * GOLDEN_RATIO)


def signs(key: np.uint32, count: int) -> np.ndarray:
    """Return the first ``count`` Rademacher signs (int8, +1 or -1) of the stream ``key``."""
    words = random_words(key, np.arange((count + 31) // 32, dtype=np.uint32))
    bits = (words[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    return (bits.reshape(-1)[:count].astype(np.int8) * 2 - 1).astype(np.int8)


def permutation(seed: int, round_: int, count: int) -> np.ndarray:
    """Return a permutation of 0 .. count - 1 that depends on (seed, round) alone, on any NumPy."""
    key = stream_key(seed, Stream.SHUFFLE, round_, 0)
    return np.argsort(random_words(key, np.arange(count, dtype=np.uint32)), kind="stable")
