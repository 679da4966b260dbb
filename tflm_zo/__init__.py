# SPDX-License-Identifier: Apache-2.0
"""On-device training for TensorFlow Lite for Microcontrollers, with forward passes only.

:func:`adapt` does all of it: prepares an int8 model by statistics of samples from before and after a drift, trains it,
and gives an ordinary int8 model back. Its parts: :func:`convert` a Keras model, :func:`realign` it, :func:`patch` it,
run it in a :class:`Trainer`, :func:`bake` it.
"""

from __future__ import annotations

from tflm_zo.adaptation.adapt import Adaptation, adapt
from tflm_zo.conversion.convert import convert
from tflm_zo.errors import ZoError
from tflm_zo.patching.bake import bake
from tflm_zo.patching.patch import patch
from tflm_zo.realignment.realign import realign
from tflm_zo.training.history import History
from tflm_zo.training.trainer import Trainer

__all__ = ["Adaptation", "History", "Trainer", "ZoError", "adapt", "bake", "convert", "patch", "realign"]
__version__ = "0.1.0"
