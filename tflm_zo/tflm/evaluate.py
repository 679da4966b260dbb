# SPDX-License-Identifier: Apache-2.0
"""Outputs of a plain ``.tflite`` in TFLM."""

from __future__ import annotations

import numpy as np

from tflm_zo.model.file import load_model
from tflm_zo.model.labels import plain_ends
from tflm_zo.model.outputs import choose_output
from tflm_zo.tflm.interpreter import Interpreter


def predict_plain(
    model: bytes, x: np.ndarray, *, output: str | int | None = None, keep_state: bool = False
) -> np.ndarray:
    """Return the outputs (n, ...) of a plain model for ``x`` (n, ...), as the model stores them (int8 or uint8
    codes, or float32).

    ``output``: name or place of the one that is wanted, if the model has several. ``keep_state``: the samples are a
    stream, and the model's state is not reset before each.
    """
    source, _ = plain_ends(model, output)
    place = choose_output(load_model(model), output)
    codes = source.codes(x)
    interpreter = Interpreter(model, keep_state=keep_state)
    return np.concatenate([interpreter.run(sample, place) for sample in codes])
