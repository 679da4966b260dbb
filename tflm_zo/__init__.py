# SPDX-License-Identifier: Apache-2.0
"""On-device training for TensorFlow Lite for Microcontrollers, with forward passes only.

The data flow: :func:`convert` a Keras model, :func:`patch` it, run it in a :class:`Trainer`, :func:`bake` it. Where
there are unlabelled samples from before and after a drift, :func:`realign` the model before it is patched.
"""

from __future__ import annotations

from tflm_zo.bake import bake
from tflm_zo.convert import convert
from tflm_zo.errors import ZoError
from tflm_zo.patch import patch
from tflm_zo.realign import realign
from tflm_zo.trainer import History, Trainer

__all__ = ["History", "Trainer", "ZoError", "bake", "convert", "patch", "realign"]
__version__ = "0.1.0"
