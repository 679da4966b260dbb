# SPDX-License-Identifier: Apache-2.0
"""Maps: outputs that have a class for each of their cells, as of segmentation or FOMO."""

from __future__ import annotations

import math

import numpy as np

from tflm_zo.errors import ZoError


def map_cells(shape: tuple[int, ...]) -> int:
    """Return the number of cells of a sample's output of ``shape`` (..., classes); 1: a vector, no map."""
    return math.prod(shape[:-1]) if len(shape) > 1 else 1


def is_map_of_classes(y: np.ndarray, cells: int, units: int) -> bool:
    """Whether labels ``y`` (n, ...) say a class for each of a map's cells, which have ``units`` outputs: by its index,
    or one-hot."""
    values = math.prod(y.shape[1:])
    if values == cells:
        # A map of one unit a cell may be one of probabilities, or of any other numbers.
        return y.dtype.kind in "iub" and (units > 1 or not np.any((y != 0) & (y != 1)))
    return values == cells * units and _one_hot(y.reshape(len(y), cells, units))


def _one_hot(y: np.ndarray) -> bool:
    return not np.any((y != 0) & (y != 1)) and not np.any(y.sum(axis=-1) != 1)


def map_classes(y: np.ndarray, cells: int, classes: int) -> np.ndarray:
    """Return labels as int32 (n, cells): class indices (n, ...) of the cells, or one-hot (n, ..., classes).

    Raises :class:`ZoError` for another shape, fractions, or classes that are not 0 .. classes - 1.
    """
    values = math.prod(y.shape[1:])
    if values not in (cells, cells * classes):
        raise ZoError(
            f"y has {values} values a sample, the map has {cells} cells: give a class index for each of them, or "
            f"one-hot vectors of {classes}"
        )
    if y.dtype.kind not in "iufb" or not np.array_equal(y, np.rint(y)):
        raise ZoError(f"y has dtype {y.dtype}, or fractions: give a class index 0 to {classes - 1} for each cell")
    if values == cells * classes and classes > 1:
        hot = y.reshape(len(y), cells, classes)
        if not _one_hot(hot):
            raise ZoError(f"y is not one-hot over its last axis of {classes}: give a class index for each cell instead")
        return np.asarray(hot.argmax(axis=2), dtype=np.int32)
    found = y.reshape(len(y), cells)
    most = max(classes, 2) - 1
    if np.any((found < 0) | (found > most)):
        raise ZoError(f"y has classes {int(found.min())} to {int(found.max())}, the map has 0 to {most}")
    return found.astype(np.int32)
