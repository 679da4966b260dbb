# SPDX-License-Identifier: Apache-2.0
"""Finding the compiled files of the package."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from tflm_zo.errors import ZoError


def compiled_file(name: str, role: str) -> Path:
    """Return the path of the shared library ``name``.

    Raises :class:`ZoError` naming ``role`` if the package was installed without it.
    """
    # An editable install keeps compiled files elsewhere than the sources.
    for folder in (Path(__file__).resolve().parent, Path(str(importlib.resources.files("tflm_zo")))):
        if (folder / name).exists():
            return folder / name
    raise ZoError(f"{role} ({name}) is missing: install the package with `pip install .`")
