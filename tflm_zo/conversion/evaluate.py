# SPDX-License-Identifier: Apache-2.0
"""Outputs and scores of a plain ``.tflite``: in TFLM where its wheel is, else in the simulator, to the same bits."""

from __future__ import annotations

import numpy as np

from tflm_zo.errors import warn_of_data
from tflm_zo.model.labels import plain_ends, read_labels, sample_notes
from tflm_zo.simulator.model import SimModel
from tflm_zo.tflm import wheel
from tflm_zo.tflm.evaluate import predict_plain


def predict_codes(model: bytes, x: np.ndarray) -> np.ndarray:
    """Return the outputs (n, ...) of a plain model for ``x`` (n, ...), as the model stores them (int8 or uint8
    codes, or float32).

    Raises :class:`ZoError` if neither TFLM, where it is, nor the simulator can run the model.
    """
    if wheel.available():
        return predict_plain(model, x)
    source, _ = plain_ends(model)
    simulated = SimModel(model)
    codes = source.codes(x)
    # The samples' own shape is without the batch dimension, which is 1.
    outputs = simulated.run(simulated.codes(codes.reshape(len(codes), *source.shape[1:])))
    return simulated.reals(outputs)


def predict_values(model: bytes, x: np.ndarray) -> np.ndarray:
    """Return the outputs (n, ...) of a plain model for ``x`` (n, ...) as float32, in the output's real units."""
    return plain_ends(model)[1].end.reals(predict_codes(model, x))


def evaluate_plain(model: bytes, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return how right a plain model is on samples with labels ``y``: ``accuracy``, ``label_accuracy`` or
    ``mean_squared_error``, by what they mean to it (:mod:`tflm_zo.model.labels`)."""
    source, outputs = plain_ends(model)
    values = predict_values(model, x)
    labels = read_labels(y, len(values), outputs)
    warn_of_data([*sample_notes(x, source), *([labels.note] if labels.note else [])])
    return labels.measure(values)
