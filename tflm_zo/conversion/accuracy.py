# SPDX-License-Identifier: Apache-2.0
"""How much accuracy it costs to convert a model to int8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tflm_zo.conversion.evaluate import predict_values
from tflm_zo.conversion.keras_files import load_keras
from tflm_zo.conversion.keras_support import as_samples, import_tensorflow, input_shape, predict_float
from tflm_zo.errors import ZoError, warn_of_data
from tflm_zo.model.labels import plain_ends, read_labels


@dataclass(frozen=True)
class AccuracyReport:
    """Float against int8 results of one model on ``samples`` labelled samples.

    ``metric`` is ``"accuracy"`` or ``"label accuracy"`` (fraction right, larger is better) or ``"mean
    squared error"`` (in the model's real output units squared, smaller is better).
    """

    metric: str
    float_value: float
    int8_value: float
    samples: int

    def __str__(self) -> str:
        return f"{self.metric} on {self.samples} samples: float {self.float_value:.4f}, int8 {self.int8_value:.4f}"


def accuracy_report(keras_model: Any, tflite_model: bytes, x: ArrayLike, y: ArrayLike) -> AccuracyReport:
    """Compare a Keras model with the int8 model made from it, the latter run in TFLM.

    What ``y`` means, and so what is measured, is decided as for every command: see
    :mod:`tflm_zo.model.labels`.

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
    labels = read_labels(targets, len(inputs), plain_ends(tflite_model)[1])
    warn_of_data([labels.note] if labels.note else [])
    (metric, of_float), (_, of_int8) = (next(iter(labels.measure(v).items())) for v in (outputs, quantized))
    return AccuracyReport(metric.replace("_", " "), of_float, of_int8, len(inputs))
