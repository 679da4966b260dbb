# SPDX-License-Identifier: Apache-2.0
"""Files of hyperparameters: what ``tflm-zo tune`` writes and ``tflm-zo train --config`` reads.

A JSON object whose names are those of :class:`~tflm_zo.training.hyperparameters.Hyperparameters`, and ``seed``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from tflm_zo.errors import ZoError
from tflm_zo.files import read_bytes, write_atomic
from tflm_zo.training.hyperparameters import check_names


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the hyperparameters in ``path``; raises :class:`ZoError` if it is no such file or has unknown names."""
    try:
        values = json.loads(read_bytes(path))
    except ValueError as error:
        raise ZoError(f"{path} is not a JSON file of hyperparameters: {error}") from error
    if not isinstance(values, dict):
        raise ZoError(f"{path} is not a JSON object of hyperparameters")
    try:
        check_names(values, besides=["seed"])
    except ZoError as error:
        raise ZoError(f"{path}: {error}") from error
    return values


def write_config(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Write hyperparameters, atomically."""
    write_atomic(path, (json.dumps(dict(values), indent=2) + "\n").encode())
