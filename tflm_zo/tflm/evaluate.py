# SPDX-License-Identifier: Apache-2.0
"""Outputs of a plain ``.tflite`` in TFLM."""

from __future__ import annotations

import numpy as np

from tflm_zo.model.labels import plain_ends
from tflm_zo.tflm.interpreter import Interpreter


def predict_plain(model: bytes, x: np.ndarray) -> np.ndarray:
    """Return the outputs (n, ...) of a plain model for ``x`` (n, ...), as the model stores them (int8 or uint8
    codes, or float32)."""
    source, _ = plain_ends(model)
    codes = source.codes(x)
    interpreter = Interpreter(model)
    return np.concatenate([interpreter.run(sample) for sample in codes])
