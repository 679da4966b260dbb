# SPDX-License-Identifier: Apache-2.0
"""The schema of ``.tflite`` files: classes that read and write each of its tables."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def _load() -> Any:
    """Load what TFLite generates from the schema. Two packages carry it: LiteRT's is not asked for where TFLM's wheel
    is (pyproject.toml).

    The module alone: importing it the usual way would first run the package around it, which loads an interpreter and
    takes as long as all of ours.
    """
    for package, folder in (("tflite_micro", "tensorflow/lite/python"), ("ai_edge_litert", "")):
        found = importlib.util.find_spec(package)
        for place in (found.submodule_search_locations or ()) if found is not None else ():
            spec = importlib.util.spec_from_file_location(
                f"{__name__}_of_{package}", Path(place, folder, "schema_py_generated.py")
            )
            if spec is not None and spec.loader is not None and Path(str(spec.origin)).is_file():
                module = importlib.util.module_from_spec(spec)
                sys.modules[spec.name] = module
                spec.loader.exec_module(module)
                return module
    raise ImportError(
        "neither tflite-micro nor ai-edge-litert is installed: install the package again with `pip install .`"
    )


schema = _load()

__all__ = ["schema"]
