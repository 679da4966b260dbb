# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.files import read_bytes, write_atomic
from tflm_zo.patched import PatchedModel

_FORMAT = 2
# What NumPy and zipfile raise on files that are damaged or something else.
_DAMAGE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Checkpoint:
    """Seed, progress counters, trained tensors by name (shaped), momentum states by name (float32, flat)."""

    seed: int
    progress: dict[str, Any]
    tensors: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]


def save(
    path: str | os.PathLike[str],
    model: bytes,
    seed: int,
    progress: Mapping[str, int | float | None],
    tensors: Mapping[str, np.ndarray],
    moments: Mapping[str, np.ndarray],
) -> None:
    """Write a checkpoint (an ``.npz`` archive, whatever the name), atomically."""
    head = {
        "format": _FORMAT,
        "model": hashlib.sha256(model).hexdigest(),
        "seed": seed,
        "progress": dict(progress),
    }
    stream = io.BytesIO()
    arrays = {f"tensors/{name}": value for name, value in tensors.items()}
    arrays |= {f"moments/{name}": value for name, value in moments.items()}
    arrays["head"] = np.array(json.dumps(head))
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    write_atomic(path, stream.getvalue())


def load(path: str | os.PathLike[str], model: PatchedModel) -> Checkpoint:
    """Read a checkpoint of ``model``.

    Raises :class:`ZoError` if the file is damaged, of another format, or of another model.
    """
    data = read_bytes(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            head = json.loads(str(archive["head"]))
            arrays = {name: archive[name] for name in archive.files if name != "head"}
        known = head["format"] == _FORMAT
        digest, seed, progress = head["model"], int(head["seed"]), dict(head["progress"])
        rate = progress.pop("head_lr")
        if set(progress) != {"epoch", "batch", "step", "passes"} or not all(
            isinstance(count, int) and count >= 0 for count in progress.values()
        ):
            raise ValueError("progress")
        progress["head_lr"] = None if rate is None else float(rate)
    except _DAMAGE as error:
        raise ZoError(f"{path} is not a checkpoint, or is damaged") from error
    if not known:
        raise ZoError(f"{path} is a checkpoint of another version of tflm-zo")
    if digest != hashlib.sha256(model.data).hexdigest():
        raise ZoError(f"{path} is a checkpoint of another model: give the patched model it was made with")
    tensors, moments = {}, {}
    for parameter in model.parameters:
        name = parameter.name
        tensors[name] = _take(path, arrays, f"tensors/{name}", parameter.dtype, parameter.shape)
        if parameter.moments:
            moments[name] = _take(path, arrays, f"moments/{name}", np.dtype(np.float32), (parameter.moments,))
    return Checkpoint(seed, progress, tensors, moments)


def _take(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    name: str,
    dtype: np.dtype,
    shape: tuple[int, ...],
) -> np.ndarray:
    array = arrays.get(name)
    if array is None or array.dtype != dtype or array.shape != shape:
        raise ZoError(f"{path}: {name} is missing or has another shape: the file is damaged")
    return array
