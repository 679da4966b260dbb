# SPDX-License-Identifier: Apache-2.0
"""The training ops as a plugin for TFLM's Python wheel."""

from __future__ import annotations

import ctypes
import functools

from tflm_zo.files import compiled_file

REGISTERER = "TflmZoRegister"


@functools.cache
def load() -> None:
    """Load the plugin once, with its symbols visible: TFLM looks the registerer up by name.

    Raises :class:`ZoError` if the package was installed without it.
    """
    ctypes.CDLL(str(compiled_file("_plugin", "the op plugin")), mode=ctypes.RTLD_GLOBAL)
