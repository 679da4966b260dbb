# SPDX-License-Identifier: Apache-2.0
"""The training ops as a plugin for TFLM's Python wheel."""

from __future__ import annotations

import ctypes
import functools

from tflm_zo.files import compiled_file
from tflm_zo.ops.native import declare
from tflm_zo.tflm.plugin_api import PROTOTYPES

REGISTERER = "TflmZoRegister"


@functools.cache
def load() -> None:
    """Load the plugin once, with its symbols visible: TFLM looks the registerer up by name.

    Raises :class:`ZoError` if the package was installed without it.
    """
    declare(_library(), PROTOTYPES)


def take_state() -> int | None:
    """Return the address of the state of the parameter op that this thread has prepared last, and forget it; None if it
    has prepared none since the last call."""
    address: int | None = _library().tflm_zo_take_state()
    return address


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(compiled_file("_plugin", "the op plugin")), mode=ctypes.RTLD_GLOBAL)
