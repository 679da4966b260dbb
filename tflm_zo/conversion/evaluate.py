# SPDX-License-Identifier: Apache-2.0
"""Outputs and scores of a plain ``.tflite``: in TFLM where its wheel is, else in the simulator, to the same bits."""

from __future__ import annotations

import numpy as np

from tflm_zo.errors import warn_of_data
from tflm_zo.model.ends import output_end, single_ends
from tflm_zo.model.file import load_model
from tflm_zo.model.graph import main_graph
from tflm_zo.model.labels import Outputs, outputs_of, read_labels, sample_notes
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
    source, _ = single_ends(load_model(model))
    simulated = SimModel(model)
    codes = source.codes(x)
    # The samples' own shape is without the batch dimension, which is 1.
    outputs = simulated.run(simulated.codes(codes.reshape(len(codes), *source.shape[1:])))
    return simulated.reals(outputs)


def predict_values(model: bytes, x: np.ndarray) -> np.ndarray:
    """Return the outputs (n, ...) of a plain model for ``x`` (n, ...) as float32, in the output's real units."""
    return single_ends(load_model(model))[1].reals(predict_codes(model, x))


def plain_outputs(model: bytes) -> Outputs:
    """Return what labels are compared with at the output of a plain model."""
    graph = main_graph(load_model(model))
    return outputs_of(graph, output_end(graph))


def evaluate_plain(model: bytes, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return how right a plain model is on samples with labels ``y``: ``accuracy``, ``label_accuracy`` or
    ``mean_squared_error``, by what they mean to it (:mod:`tflm_zo.model.labels`)."""
    source, _ = single_ends(load_model(model))
    values = predict_values(model, x)
    labels = read_labels(y, len(values), plain_outputs(model))
    warn_of_data([*sample_notes(x, source), *([labels.note] if labels.note else [])])
    return labels.measure(values)
