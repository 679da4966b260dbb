# SPDX-License-Identifier: Apache-2.0
"""How much accuracy it costs to convert a model to int8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tflm_zo.conversion.diagnosis import last_op
from tflm_zo.conversion.evaluate import predict_values
from tflm_zo.conversion.keras_files import load_keras
from tflm_zo.conversion.keras_support import as_samples, import_tensorflow, input_shape, predict_float
from tflm_zo.errors import ZoError


@dataclass(frozen=True)
class AccuracyReport:
    """Float against int8 results of one model on ``samples`` labelled samples.

    ``metric`` is ``"accuracy"`` (fraction right, larger is better) or ``"mean squared error"``
    (in the model's real output units squared, smaller is better).
    """

    metric: str
    float_value: float
    int8_value: float
    samples: int

    def __str__(self) -> str:
        return f"{self.metric} on {self.samples} samples: float {self.float_value:.4f}, int8 {self.int8_value:.4f}"


def accuracy_report(keras_model: Any, tflite_model: bytes, x: ArrayLike, y: ArrayLike) -> AccuracyReport:
    """Compare a Keras model with the int8 model made from it, the latter run in TFLM.

    With ``y`` integer of shape ``(n,)`` and more than one model output this is classification:
    the largest output wins. A single output behind a sigmoid says class 1 above 0.5.
    Otherwise ``y`` is the target itself, as large as the outputs, and the result is the mean
    squared error.

    Args:
        keras_model: as for :func:`tflm_zo.convert`.
        tflite_model: content of the int8 ``.tflite``.
        x: float array ``(n, ...)``, in the units the Keras model is fed.
        y: labels ``(n,)`` or targets ``(n, ...)``.

    Raises:
        ZoError: the arrays do not fit the model or each other.
    """
    import_tensorflow()
    model = load_keras(keras_model)
    inputs = as_samples("x", x, input_shape(model), model.name)
    targets = np.asarray(y)
    if targets.ndim == 0 or len(targets) != len(inputs):
        raise ZoError(f"y has shape {targets.shape}, x has {len(inputs)} samples: give one y each")
    outputs = predict_float(model, inputs)
    quantized = predict_values(tflite_model, inputs).reshape(len(inputs), -1)
    if quantized.shape != outputs.shape:
        raise ZoError(
            f"the int8 model gives {quantized.shape[1]} outputs, '{model.name}' gives "
            f"{outputs.shape[1]}: it was not made from this Keras model"
        )
    values_per_sample = outputs.shape[1]
    integer = np.issubdtype(targets.dtype, np.integer)
    binary = values_per_sample == 1 and integer and last_op(tflite_model) == "LOGISTIC"
    if binary or (targets.ndim == 1 and values_per_sample > 1):
        classes = max(2, values_per_sample)
        if not integer:
            raise ZoError(f"y has dtype {targets.dtype}: class labels must be integers")
        if targets.min() < 0 or targets.max() >= classes:
            raise ZoError(f"y has labels {targets.min()} to {targets.max()}, the model has classes 0 to {classes - 1}")

        def score(values: NDArray[np.float32]) -> float:
            found = values[:, 0] > 0.5 if binary else values.argmax(axis=1)
            return float(np.mean(found == targets.reshape(-1)))

        metric = "accuracy"
    else:
        if targets.size != outputs.size:
            raise ZoError(f"y has {targets.size // len(inputs)} values a sample, the model gives {values_per_sample}")
        wanted = targets.reshape(outputs.shape).astype(np.float64)

        def score(values: NDArray[np.float32]) -> float:
            return float(np.mean((values.astype(np.float64) - wanted) ** 2))

        metric = "mean squared error"
    return AccuracyReport(metric, score(outputs), score(quantized), len(inputs))
