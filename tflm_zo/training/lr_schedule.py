# SPDX-License-Identifier: Apache-2.0
"""How learning rates fall over a fit, the same to the bit on every platform."""

from __future__ import annotations

LR_SCHEDULES = ("constant", "linear", "cosine", "step")


def rate_scale(schedule: str, end: float, step: int, steps: int) -> float:
    """Factor of the learning rates at ``step`` of ``steps``: from 1 to ``end``, by one of :data:`LR_SCHEDULES`."""
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - (1.0 - end) * step / steps
    done = step / steps
    left = _half_cosine(done) if schedule == "cosine" else _staircase(done)
    return end + (1.0 - end) * left


def _staircase(done: float) -> float:
    if done < 0.5:
        return 1.0
    return 0.1 if done < 0.75 else 0.01


def _half_cosine(done: float) -> float:
    """(1 + cos(pi done)) / 2 for 0 <= done <= 1, within 1e-12.

    By its Taylor series: the C library's cosine may differ between platforms in the last bit.
    """
    if done > 0.5:
        return 1.0 - _half_cosine(1.0 - done)
    square = (3.141592653589793 * done) * (3.141592653589793 * done)
    series = 1.0
    for n in range(18, 0, -2):
        series = 1.0 - series * square / (n * (n - 1))
    return (1.0 + series) / 2.0
