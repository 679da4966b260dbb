# SPDX-License-Identifier: Apache-2.0
"""Outputs and scores of a plain ``.tflite``: in TFLM where its wheel is, else in the simulator, to the same bits."""

from __future__ import annotations

import numpy as np

from tflm_zo.errors import ZoError, warn_of_data
from tflm_zo.model.file import load_model
from tflm_zo.model.labels import plain_ends, read_labels, sample_notes
from tflm_zo.model.outputs import choose_output
from tflm_zo.model.state import read_state
from tflm_zo.simulator.model import SimModel
from tflm_zo.tflm import wheel
from tflm_zo.tflm.evaluate import predict_plain


def predict_codes(
    model: bytes, x: np.ndarray, *, output: str | int | None = None, keep_state: bool = False
) -> np.ndarray:
    """Return the outputs (n, ...) of a plain model for ``x`` (n, ...), as the model stores them (int8 or uint8
    codes, or float32).

    ``output``: name or place of the one that is wanted, if the model has several. ``keep_state``: the samples are a
    stream in its order; without it each is computed from a state that was reset, if the model keeps any. Raises
    :class:`ZoError` if neither TFLM, where it is, nor the simulator can run the model.
    """
    if wheel.available():
        return predict_plain(model, x, output=output, keep_state=keep_state)
    source, _ = plain_ends(model, output)
    tree = load_model(model)
    if keep_state and read_state(tree):
        raise ZoError("a model's state is kept from sample to sample in TFLM only, whose Python wheel is not here")
    simulated = SimModel(model, output=choose_output(tree, output))
    codes = source.codes(x)
    # The samples' own shape is without the batch dimension, which is 1.
    outputs = simulated.run(simulated.codes(codes.reshape(len(codes), *source.shape[1:])))
    return simulated.reals(outputs)


def predict_values(
    model: bytes, x: np.ndarray, *, output: str | int | None = None, keep_state: bool = False
) -> np.ndarray:
    """Return the outputs (n, ...) of a plain model for ``x`` (n, ...) as float32, in the output's real units; options
    are those of :func:`predict_codes`."""
    codes = predict_codes(model, x, output=output, keep_state=keep_state)
    return plain_ends(model, output)[1].end.reals(codes)


def evaluate_plain(
    model: bytes, x: np.ndarray, y: np.ndarray, *, output: str | int | None = None, keep_state: bool = False
) -> dict[str, float]:
    """Return how right a plain model is on samples with labels ``y``: ``accuracy``, ``label_accuracy`` or
    ``mean_squared_error``, by what they mean to it (:mod:`tflm_zo.model.labels`); options are those of
    :func:`predict_codes`."""
    source, outputs = plain_ends(model, output)
    values = predict_values(model, x, output=output, keep_state=keep_state)
    labels = read_labels(y, len(values), outputs)
    warn_of_data([*sample_notes(x, source), *([labels.note] if labels.note else [])])
    return labels.measure(values)
