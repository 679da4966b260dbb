# SPDX-License-Identifier: Apache-2.0
"""TFLM's Python wheel, where it is: it exists for Linux on x86-64 only."""

from __future__ import annotations

import functools
import importlib.util
import platform
import sys
from typing import Any

from tflm_zo.errors import ZoError


@functools.cache
def available() -> bool:
    """Whether models can be run in TFLM on this machine."""
    return importlib.util.find_spec("tflite_micro") is not None


def runtime() -> Any:
    """Return the wheel's module of interpreters. Raises :class:`ZoError` where the wheel is missing."""
    try:
        from tflite_micro.python.tflite_micro import runtime as module
    except ImportError as error:
        raise ZoError(_remedy()) from error
    return module


def _remedy() -> str:
    if sys.platform == "linux" and platform.machine() == "x86_64":
        return "TFLM's Python wheel (tflite-micro) is not installed: install the package again with `pip install .`"
    return "TFLM's Python wheel exists for Linux on x86-64 only: use the simulator on this machine"
