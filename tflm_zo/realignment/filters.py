# SPDX-License-Identifier: Apache-2.0
"""A fixed smoothing or sharpening filter between an image model's input and its first layer.

Sensor noise, a lens out of focus, or compression change the spectrum of images, which no gain or offset brings back.
A small filter does so in part, and what it leaves, realignment and training find easier.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import shape_of
from tflm_zo.patching.front_layer import input_tensor, insert_front_layer

NAME = "filter"

# Accepted in place of a filter's name.
NO_FILTER = "none"

_BINOMIAL = np.array([1.0, 2.0, 1.0])


def _smoothing(taps: int) -> np.ndarray:
    """The binomial kernel of so many taps along both axes, (taps, taps), with sum 1."""
    row = np.ones(1)
    for _ in range(taps // 2):
        row = np.convolve(row, _BINOMIAL)
    return np.outer(row, row) / row.sum() ** 2


# Sharpening adds what the smallest smoothing filter takes away.
_SHARPENING = 2 * np.outer([0.0, 1.0, 0.0], [0.0, 1.0, 0.0]) - _smoothing(3)

# By name; each has the sum 1, so that it leaves even areas as they are.
FILTERS: dict[str, np.ndarray] = {
    "sharpen": _SHARPENING,
    "smooth3": _smoothing(3),
    "smooth5": _smoothing(5),
    "smooth9": _smoothing(9),
}


def add_filter(tree: Any, name: str, border: int) -> None:
    """Insert the filter ``name`` (of :data:`FILTERS`) behind the model's only input, in place.

    ``border``: the code (int8) that stands for what is beyond the image's border, such as the samples' mean. Raises
    :class:`ZoError` for models without an int8 image input [1, rows, columns, channels] of at least the filter's size.
    """
    kernel = FILTERS[name]
    shape = shape_of(input_tensor(tree, "a filter"))
    if len(shape) != 4 or min(shape[1:3]) < len(kernel):
        raise ZoError(
            f"filter {name} is for images of {len(kernel)} x {len(kernel)} at least, the model's input is {list(shape)}"
        )
    codes = _codes(kernel)
    weights = np.repeat(codes[None, :, :, None], shape[3], axis=3)
    scales = np.full(shape[3], 1.0 / codes.astype(int).sum())
    insert_front_layer(tree, NAME, (1, *shape[1:]), weights, scales, zero_point=border)


def _codes(kernel: np.ndarray) -> np.ndarray:
    """The kernel as int8 codes of one scale: exactly, where whole numbers suffice."""
    for unit in (16, 256):
        if np.all(kernel * unit == np.rint(kernel * unit)):
            return np.asarray((kernel * unit).astype(np.int8))
    return np.asarray(np.rint(kernel * (127 / np.abs(kernel).max())).astype(np.int8))
