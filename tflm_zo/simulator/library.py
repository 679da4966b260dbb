# SPDX-License-Identifier: Apache-2.0
"""Finds and loads the simulator's shared library, which ``kernels/sim/sim_api.h`` and ``train_api.h`` explain."""

from __future__ import annotations

import ctypes
import importlib.resources
import os
from functools import lru_cache
from pathlib import Path

from tflm_zo.errors import ZoError
from tflm_zo.files import library_names
from tflm_zo.ops.native import declare
from tflm_zo.simulator.layouts import (
    PROTOTYPES,
    InstructionSet,
    Training,
    TrainingNode,
    TrainingOp,
    TrainingParameter,
    TrainingTensor,
)

__all__ = ["Training", "TrainingNode", "TrainingOp", "TrainingParameter", "TrainingTensor"]

LIBRARY_STEM = "libtflm_zo_sim"
LIBRARY_VARIABLE = "TFLM_ZO_SIM_LIBRARY"

INSTRUCTION_SETS = {member.name.lower().replace("_", ""): member for member in InstructionSet}


def _candidates() -> list[Path]:
    package = Path(__file__).resolve().parents[1]
    # An editable install keeps compiled files apart from the sources.
    installed = Path(str(importlib.resources.files("tflm_zo")))
    builds = package.parent / "build"
    folders = [package, installed, builds, builds / "sim", builds / "kernels" / "sim"]
    return [folder / name for folder in folders for name in library_names(LIBRARY_STEM)]


def find_library() -> Path:
    """Return the path of the shared library.

    ``TFLM_ZO_SIM_LIBRARY`` in the environment decides if it is set; otherwise the package's folder
    and the source tree's ``build`` folder are searched. Raises :class:`ZoError` if it is nowhere.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise ZoError(f"{LIBRARY_VARIABLE} names {named}, which is not a file")
        return Path(named)
    for candidate in _candidates():
        if candidate.is_file():
            return candidate
    raise ZoError(
        f"the simulator's library ({LIBRARY_STEM}) is missing: install the package with `pip install .`, "
        f"or build it with `cmake -S kernels/sim -B build/sim && cmake --build build/sim`"
    )


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL:
    """Load the library once and declare its functions. Raises :class:`ZoError` if that fails."""
    path = find_library()
    try:
        library = ctypes.CDLL(os.fspath(path))
        declare(library, PROTOTYPES)
    except (OSError, AttributeError) as error:
        raise ZoError(f"{path} is not a usable simulator library, rebuild it: {error}") from error
    return library
