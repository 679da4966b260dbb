# SPDX-License-Identifier: Apache-2.0
"""Samples and labels: reading them, checking them against a model, and turning them into its codes."""

from __future__ import annotations

import io
import os
import zipfile
import zlib

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.files import read_bytes
from tflm_zo.model.quantization import Quantization, quantize


def input_codes(
    x: np.ndarray, shape: tuple[int, ...], quantization: Quantization | None, name: str = "x"
) -> np.ndarray:
    """Return samples ``x`` (n, ...) as int8 (n, *shape), where ``shape`` is the model's input [1, ...].

    float values are quantized with the model's own input scale; int8 is taken as codes, uint8 as codes plus 128, as
    images are stored. Raises :class:`ZoError` for another shape or dtype, no sample at all, or values that are not
    finite; ``name`` is that of the samples there.
    """
    return codes_of(np.asarray(x), shape, quantization, name, "the model's input")


def spread_over(count: int, most: int) -> np.ndarray:
    """Return the indices of at most so many of ``count`` samples, from all over them: they may be in the order of their
    classes."""
    taken = min(count, most)
    return np.asarray(np.arange(taken) * count // max(taken, 1))


def class_indices(y: np.ndarray, classes: int) -> np.ndarray:
    """Return labels (n,) or (n, 1) of any numeric type as int32 (n,).

    Raises :class:`ZoError` for another shape, fractions, or classes that are not 0 .. classes - 1.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ZoError(f"y has shape {y.shape}: give class indices of shape ({len(y)},) (one-hot rows: use argmax)")
    if y.dtype.kind not in "iu" and not (
        y.dtype.kind in "fb" and np.all(np.isfinite(y)) and np.array_equal(y, np.rint(y))
    ):
        raise ZoError(f"y has dtype {y.dtype}: give integer class indices 0 to {classes - 1}")
    wrong = (y < 0) | (y >= classes)
    if np.any(wrong):
        first = int(np.argmax(wrong))
        raise ZoError(f"y[{first}] is class {int(y[first])}, but the model has {classes} classes, 0 to {classes - 1}")
    return y.astype(np.int32)


def codes_of(
    values: np.ndarray, shape: tuple[int, ...], quantization: Quantization | None, name: str, role: str
) -> np.ndarray:
    """Return ``values`` as :func:`input_codes` does; ``role`` says in errors what they are compared with."""
    count = values.shape[0] if values.ndim else 0
    if count == 0:
        raise ZoError(f"{name} holds no samples")
    sample, wanted = values.shape[1:], shape[1:] if shape and shape[0] == 1 else shape
    # A channel axis of length one may be left out, as image and audio arrays often do.
    if _without_ones(sample) != _without_ones(wanted):
        raise ZoError(f"{name} has samples of shape {list(sample)}, but {role} is {list(wanted)}")
    values = values.reshape(count, *shape)
    if values.dtype == np.int8 and quantization is not None:
        return values
    if values.dtype == np.uint8 and quantization is not None:
        return (values.astype(np.int16) - 128).astype(np.int8)
    if values.dtype.kind != "f":
        raise ZoError(
            f"{name} has dtype {values.dtype}: give float values in the units of the Keras model"
            + (", or int8 codes, or uint8 images" if quantization is not None else "")
        )
    if not np.all(np.isfinite(values)):
        flat = ~np.isfinite(values.reshape(count, -1)).all(axis=1)
        raise ZoError(f"{name}[{int(np.argmax(flat))}] has a value that is not finite (NaN or infinity)")
    if quantization is None:
        return values.astype(np.float32)
    return quantize(values, quantization)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def load_npz(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the arrays ``x`` and ``y`` of an ``.npz`` file.

    Raises :class:`ZoError` if the file is not an ``.npz`` or an array is missing.
    """
    arrays = _load_arrays(path, ("x", "y"))
    return arrays["x"], arrays["y"]


def load_npz_samples(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return ``x`` of an ``.npz`` file, and ``y`` or None if the file has no labels; raises as :func:`load_npz`."""
    arrays = _load_arrays(path, ("x",))
    return arrays["x"], arrays.get("y")


def _load_arrays(path: str | os.PathLike[str], needed: tuple[str, ...]) -> dict[str, np.ndarray]:
    data = read_bytes(path)
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ZoError(f"{path} is a single array: save it with np.savez(path, x=..., y=...)")
        with archive:
            arrays = {name: archive[name] for name in archive.files if name in ("x", "y")}
    except ZoError:
        raise
    except (ValueError, EOFError, OSError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ZoError(f"{path} is not an .npz file with arrays x and y") from error
    for name in needed:
        if name not in arrays:
            raise ZoError(f"{path} has no array {name}: save it with np.savez(path, x=..., y=...)")
    return arrays
