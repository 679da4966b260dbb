# SPDX-License-Identifier: Apache-2.0
"""Sigmoid and tanh of int16 codes as tables, as TFLite's integer LSTM computes them: int16 (65536,) from -32768 on."""

from __future__ import annotations

import numpy as np

_CODES = np.arange(-(2**15), 2**15, dtype=np.int64)
_PLACES = 256
_UNITS = 24  # places of the table for 1.0
# Where TFLite's table has one more than the nearest integer.
_ONE_MORE = (
    4, 8, 12, 14, 15, 16, 17, 19, 20, 21, 22, 25, 27, 28, 29, 30, 31, 33, 34, 35, 37, 39, 40, 41, 43, 44, 45, 46, 49,
    50, 54, 62, 63, 64, 66, 82, 86, 93, 100, 103, 112, 116, 135, 255,
)  # fmt: skip


def _sigmoid_places() -> np.ndarray:
    """Sigmoid of i / 24 in Q0.16: between these TFLite interpolates."""
    places = np.rint(65536.0 / (1.0 + np.exp(-np.arange(_PLACES) / _UNITS))).astype(np.int64)
    places[list(_ONE_MORE)] += 1
    return places


def _interpolated(x: np.ndarray, bits: int, largest: int) -> np.ndarray:
    """The table at ``x`` / 2**bits, x >= 0, times 2**bits; ``largest`` beyond its end."""
    table = _sigmoid_places()
    place = np.minimum(x >> bits, _PLACES - 2)
    low, high = table[place], table[place + 1]
    between = (low << bits) + (x & ((1 << bits) - 1)) * (high - low)
    return np.where(x >> bits >= _PLACES - 1, largest, between)


def sigmoid_table() -> np.ndarray:
    """Sigmoid in Q0.15 of codes in Q3.12."""
    x = _CODES * 3
    of_size = _interpolated(np.abs(x), 9, 0x7FFF << 10)
    result = np.where(x >= 0, of_size + (1 << 9), (1 << 25) - of_size + (1 << 9) - 1)
    return (result >> 10).astype(np.int16)


def tanh_table(scale_power: int) -> np.ndarray:
    """Tanh in Q0.15 of codes with the scale 2**scale_power."""
    left_shift = 12 + scale_power
    # A scale finer than 2**-12 has the factor 3 apart from its shift, to the right and rounded.
    x = (_CODES * 3) << left_shift if left_shift >= 0 else (_CODES * 3 + (1 << (-left_shift - 1))) >> -left_shift
    of_size = _interpolated(np.abs(x), 8, 0xFFFF << 8)
    half = 1 << 7
    result = np.where(x >= 0, of_size - (1 << 23) + half, -of_size + (1 << 23) + half - 1)
    return (result >> 8).astype(np.int16)
