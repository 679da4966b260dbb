# SPDX-License-Identifier: Apache-2.0
"""Labelled samples: checking them against a model, and into its codes."""

from __future__ import annotations

import io
import os
import zipfile
import zlib

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.files import read_bytes
from tflm_zo.model.layers import Quantization
from tflm_zo.ops.options import LOSS_NAMES
from tflm_zo.patching.patched_model import PatchedModel


def quantize(values: np.ndarray, quantization: Quantization) -> np.ndarray:
    """Return ``values`` (float, the units the Keras model was trained on) as int8 codes, clipped."""
    codes = np.rint(np.asarray(values, dtype=np.float64) / quantization.scale)
    return np.clip(codes + quantization.zero_point, -128, 127).astype(np.int8)


def dequantize(codes: np.ndarray, quantization: Quantization) -> np.ndarray:
    """Return int8 ``codes`` as float32 values."""
    return ((codes.astype(np.int32) - quantization.zero_point) * quantization.scale).astype(np.float32)


def input_codes(
    x: np.ndarray, shape: tuple[int, ...], quantization: Quantization | None, name: str = "x"
) -> np.ndarray:
    """Return samples ``x`` (n, ...) as int8 (n, *shape), where ``shape`` is the model's input [1, ...].

    float values are quantized with the model's own input scale; int8 is taken as codes. Raises :class:`ZoError`
    for another shape or dtype, no sample at all, or values that are not finite; ``name`` is that of the samples there.
    """
    return _codes(np.asarray(x), shape, quantization, name, "the model's input")


def spread_over(count: int, most: int) -> np.ndarray:
    """Return the indices of at most so many of ``count`` samples, from all over them: they may be in the order of their
    classes."""
    taken = min(count, most)
    return np.asarray(np.arange(taken) * count // max(taken, 1))


def sample_codes(x: np.ndarray, y: np.ndarray | None, model: PatchedModel) -> tuple[np.ndarray, np.ndarray]:
    """Return samples as :func:`input_codes`, and labels as target tensors: int32 (n, 1) classes, or int8 (n, *shape).

    Without labels the classes are -1. Raises :class:`ZoError` as :func:`input_codes` does, if the model's loss needs
    labels and there are none, or if their number, shape, type or range does not fit.
    """
    codes = input_codes(x, model.input_shape, model.input_quantization)
    return codes, _target_codes(y, model, len(codes))


def _target_codes(y: np.ndarray | None, model: PatchedModel, samples: int) -> np.ndarray:
    if y is None:
        if model.loss.needs_labels:
            raise ZoError(
                f"there are no labels y, but the model is patched for the loss {LOSS_NAMES[model.loss.kind]}: give "
                "labels, or patch it with loss entropy"
            )
        return np.full((samples, 1), -1, dtype=np.int32)
    y = np.asarray(y)
    if len(y.shape) == 0 or y.shape[0] != samples:
        raise ZoError(f"y has shape {y.shape}, but x has {samples} samples: give one label a sample")
    if not model.loss.classes:
        shape = model.target_shape
        if y.ndim == 1 and int(np.prod(shape)) > 1:
            raise ZoError(
                f"y has one number a sample, but the model is patched for mean squared error on "
                f"{int(np.prod(shape))} outputs; for class indices patch it with loss cross-entropy"
            )
        target = Quantization(np.array([model.loss.scale]), model.loss.zero_point)
        return _codes(y, shape, target, "y", "the model's output")
    return class_indices(y, model.loss.classes)[:, None]


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


def _codes(
    values: np.ndarray, shape: tuple[int, ...], quantization: Quantization | None, name: str, role: str
) -> np.ndarray:
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
    if values.dtype.kind != "f":
        raise ZoError(
            f"{name} has dtype {values.dtype}: give float values in the units of the Keras model"
            + (", or int8 codes" if quantization is not None else "")
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


def load_npz_for(model: PatchedModel, path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return ``x`` and ``y`` of an ``.npz`` file to train or measure ``model`` with.

    ``y`` is None only if the file has none and the model's loss needs none; raises as :func:`load_npz`.
    """
    return load_npz(path) if model.loss.needs_labels else load_npz_samples(path)


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
