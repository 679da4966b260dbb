# SPDX-License-Identifier: Apache-2.0
"""Keras models for the rest of the package: imported late, loaded, checked, kept quiet."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tflm_zo.errors import ZoError

_PREDICT_BATCH = 256


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what TensorFlow writes to the terminal, mostly from C++, past ``sys.stderr``."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(number, os.dup(number)) for number in (1, 2)]
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        for number, _ in saved:
            os.dup2(sink, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in saved:
            os.dup2(copy, number)
            os.close(copy)
        os.close(sink)


def import_tensorflow() -> tuple[Any, Any]:
    """Return the modules ``tensorflow`` and ``keras``.

    Raises:
        ZoError: not installed, or Keras is set to run on another framework.
    """
    try:
        if "tensorflow" not in sys.modules:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with quiet():
            import keras
            import tensorflow as tf
    except ImportError as error:
        raise ZoError(f"converting needs TensorFlow ({first_line(error)}): pip install tflm-zo[convert]") from error
    if keras.backend.backend() != "tensorflow":
        raise ZoError(f"Keras runs on {keras.backend.backend()}: set the environment variable KERAS_BACKEND=tensorflow")
    return tf, keras


def first_line(error: BaseException | str) -> str:
    """The first line of a message that may have many, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200].rstrip(".:") if lines else type(error).__name__


def load_keras(keras_model: Any) -> Any:
    """Return ``keras_model`` itself, or the Keras model in the ``.keras`` or ``.h5`` file it names.

    Raises:
        ZoError: no such file, not a Keras model, or it needs code that the file does not hold.
    """
    _, keras = import_tensorflow()
    if isinstance(keras_model, keras.Model):
        return keras_model
    if not isinstance(keras_model, (str, os.PathLike)):
        raise ZoError(f"expected a Keras 3 model or the path of one, got {type(keras_model).__name__}")
    path = Path(keras_model)
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ZoError(f"{path}: not a Keras file; save the model as .keras or .h5")
    if not path.is_file():
        raise ZoError(f"cannot read {path}: no such file")
    try:
        # Only inference matters here, so an optimizer or loss that does not load is no obstacle.
        with quiet():
            return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises nearly every type here, by file and by version.
        raise ZoError(
            f"cannot load {path}: {first_line(error)} (a model with layers of your own: load it "
            "in Python and pass the model object)"
        ) from error


def predict_float(model: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the outputs ``(n, values per sample)`` of a Keras model in inference mode."""
    with quiet():
        parts = [
            np.asarray(model(x[start : start + _PREDICT_BATCH], training=False))
            for start in range(0, len(x), _PREDICT_BATCH)
        ]
    return np.concatenate(parts).reshape(len(x), -1).astype(np.float32)


def input_shape(model: Any) -> tuple[int | None, ...] | None:
    """Shape of one sample, None for an open size; None if only data can tell (subclassed model).

    Raises:
        ZoError: the model is not built, or does not have exactly one float input.
    """
    if not model.built:
        raise ZoError(f"model '{model.name}' has no weights yet: call it on a sample and train it first")
    try:
        inputs = model.inputs
    except AttributeError:
        inputs = None
    if inputs is None:
        return None
    if len(inputs) != 1:
        names = ", ".join(f"'{tensor.name}'" for tensor in inputs)
        raise ZoError(
            f"model '{model.name}' has {len(inputs)} inputs ({names}): only models with one input can be converted"
        )
    dtype = str(inputs[0].dtype)
    if not dtype.startswith("float"):
        raise ZoError(
            f"input '{inputs[0].name}' of model '{model.name}' has dtype {dtype}: only a float input can become int8"
        )
    return tuple(inputs[0].shape[1:])


def as_samples(
    name: str,
    data: ArrayLike | Iterable[ArrayLike],
    expected: tuple[int | None, ...] | None,
    model_name: str,
) -> NDArray[np.float32]:
    """Return ``data``, called ``name`` in messages, as float32 ``(n, *expected)``.

    Axes of length one may be missing or added.

    Raises:
        ZoError: wrong shape, no sample, or values that are not finite.
    """
    try:
        if not isinstance(data, np.ndarray):
            if isinstance(data, (str, bytes, dict)) or not isinstance(data, Iterable):
                raise ValueError(f"got {type(data).__name__}")
            data = np.stack([np.asarray(sample, dtype=np.float32) for sample in data])
        samples = np.ascontiguousarray(data, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ZoError(f"{name} must be an array (n, ...) or samples of one shape: {first_line(error)}") from error
    if samples.ndim < 2 or len(samples) == 0:
        raise ZoError(f"{name} has shape {samples.shape}: at least one sample (n, ...) is needed")
    # Image and audio arrays often leave out a channel axis of length one.
    fixed = expected if expected is not None and None not in expected else None
    if fixed is not None and _without_ones(samples.shape[1:]) == _without_ones(fixed):
        samples = samples.reshape(len(samples), *fixed)
    shape = samples.shape[1:]
    if expected is not None and (
        len(shape) != len(expected)
        or any(want is not None and have != want for have, want in zip(shape, expected, strict=True))
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise ZoError(f"{name} has samples of shape {shape}, model '{model_name}' takes ({wanted})")
    if not np.isfinite(samples).all():
        raise ZoError(f"{name} holds NaN or infinite values: remove them")
    return samples


def _without_ones(shape: Sequence[int | None]) -> tuple[int | None, ...]:
    return tuple(size for size in shape if size != 1)
