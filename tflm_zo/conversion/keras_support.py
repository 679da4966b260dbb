# SPDX-License-Identifier: Apache-2.0
"""Keras models for the rest of the package: imported late, loaded, checked, kept quiet."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tflm_zo.errors import ZoError

_PREDICT_BATCH = 256
_MOST_CAUSE = 400
_HALF = ("float16", "bfloat16")


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
        raise ZoError(f"converting needs TensorFlow ({cause(error)}): pip install tflm-zo[convert]") from error
    if keras.backend.backend() != "tensorflow":
        raise ZoError(f"Keras runs on {keras.backend.backend()}: set the environment variable KERAS_BACKEND=tensorflow")
    return tf, keras


def cause(error: BaseException | str) -> str:
    """What a message of many lines comes to, in one of at most 400 characters: what Keras wraps into others, with
    configurations of layers and shapes of arguments around it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    text = re.split(r"Exception encountered(?: when calling [^\n]*)?[.:]\s", text)[-1]
    text = text.split("\nArguments received by")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[0].rstrip(".:") if len(lines[0]) <= _MOST_CAUSE else lines[0][:_MOST_CAUSE] + " ..."


def scope_name(name: str) -> str:
    """Return a layer's name as TensorFlow takes it for the scope of its operators: Keras allows spaces and more."""
    scope = re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", name)
    return scope if scope[:1].isalnum() or scope[:1] == "." else f"layer{scope}"


@contextlib.contextmanager
def plain_inference(model: Any) -> Iterator[None]:
    """Around tracing a Keras model: recurrent layers are unrolled, since loops cannot become int8; what computes in
    float16 does so in float32; and names are such that TensorFlow takes them. All is undone afterwards.

    Raises :class:`ZoError` for weights in float16, which would be of another type than what computes with them."""
    import keras

    changed: list[tuple[Any, str, Any]] = []

    def change(layer: Any, attribute: str, value: Any) -> None:
        before = getattr(layer, attribute)
        if before != value:
            changed.append((layer, attribute, before))
            setattr(layer, attribute, value)

    try:
        for layer in model._flatten_layers():
            change(layer, "name", scope_name(layer.name))
            if isinstance(layer, keras.layers.RNN):
                change(layer, "unroll", True)
            if layer.variable_dtype in _HALF:
                raise ZoError(
                    f"layer '{layer.name}' keeps its weights in {layer.variable_dtype}: make the model with the dtype "
                    "policy float32 or mixed_float16"
                )
            if layer.compute_dtype in _HALF:
                change(layer, "dtype_policy", keras.dtype_policies.get("float32"))
        yield
    finally:
        for layer, attribute, before in reversed(changed):
            setattr(layer, attribute, before)


def predict_float(model: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the outputs ``(n, values per sample)`` of a Keras model in inference mode."""
    # A model may be for batches of one size only.
    batch = next((source.shape[0] for source in getattr(model, "inputs", None) or []), None) or _PREDICT_BATCH
    with quiet():
        parts = [
            np.asarray(model(x[start : start + batch], training=False), dtype=np.float32)
            for start in range(0, len(x), batch)
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
        raise ZoError(f"{name} must be an array (n, ...) or samples of one shape: {cause(error)}") from error
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
