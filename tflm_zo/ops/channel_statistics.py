# SPDX-License-Identifier: Apache-2.0
"""Mean and spread of each channel of a model's input, from sums that are exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ChannelStatistics:
    """Of ``count`` samples: ``mean`` and ``spread`` (standard deviation over all samples and positions) of each
    channel, in codes (float64 (channels,))."""

    count: int
    mean: np.ndarray
    spread: np.ndarray


def channel_axis(shape: tuple[int, ...]) -> int:
    """Return the axis of ``shape`` that counts channels: the last one longer than one (else the last one)."""
    return max((i for i, n in enumerate(shape) if n > 1), default=len(shape) - 1)


def channel_statistics(codes: np.ndarray) -> ChannelStatistics:
    """Return the statistics of ``codes`` (int8 (n, *shape), n of at least 1), channels as in :func:`channel_axis`.

    Sums are integers, so they do not depend on the order of the samples, and a board gets the same ones.
    """
    shape = codes.shape[1:]
    # Axes of length one may follow the channels; both orders are the same memory.
    values = codes.reshape(-1, shape[channel_axis(shape)])
    count = len(values)
    sums = values.sum(axis=0, dtype=np.int64)
    # One sample at a time: squares take eight times the memory of codes.
    squares = sum(np.square(v.reshape(-1, values.shape[1]), dtype=np.int64).sum(axis=0) for v in codes)
    # About the integer nearest to the mean: what is subtracted is then at most half of what it is subtracted from, so
    # nothing is lost by cancellation, however small the spread is.
    center = (2 * sums + count) // (2 * count)
    rest = (sums - center * count) / count
    variance = (squares - 2 * center * sums + center * center * count) / count - rest * rest
    return ChannelStatistics(len(codes), center + rest, np.sqrt(variance))
