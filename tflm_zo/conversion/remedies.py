# SPDX-License-Identifier: Apache-2.0
"""What to do about a Keras layer that cannot become int8."""

from __future__ import annotations

import re

LOOP_REMEDY = "the model has a loop: build recurrent layers with unroll=True, and leave out loops of your own"
_OTHERWISE = "replace it, or do its work outside the model"

# By a word of the message, a layer's type or an operator's name: the first that is in it counts.
_REMEDIES = (
    (
        "LayerNormalization|GroupNormalization|UnitNormalization",
        "BatchNormalization becomes a part of the layer before",
    ),
    ("UpSampling1D", "Conv1DTranspose can stand in its place"),
    ("UpSampling2D", 'interpolation="bilinear" can, and so can Conv2DTranspose'),
    ("GELU|ELU|SELU|Selu|Softplus|Softsign|Mish", 'use "relu", LeakyReLU, "swish" or "hard_swish" in its place'),
)


def remedy(message: str) -> str:
    """Return the end of a ``message`` that names a layer by its type and what is wrong: what to do about it."""
    for words, text in _REMEDIES:
        if re.search(rf"\b({words})\b", message):
            return text
    return _OTHERWISE
