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
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.training.rates import Rates
from tflm_zo.training.training_state import Progress, Snapshot
from tflm_zo.training.watch import WatchState, check_state

_FORMAT = 3
_COUNTERS = ("epoch", "batch", "step", "passes")
# Prefixes of array names.
_UNFINISHED, _GUARD = "unfinished/", "guard/"
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
    """Seed, progress, the best weights; of a fit that was not finished also the last ones and its guard; a number by
    which its samples are known."""

    seed: int
    progress: Progress
    best: Snapshot
    unfinished: Snapshot | None
    guard: WatchState | None
    samples: int | None = None


def save(path: str | os.PathLike[str], model: PatchedModel, state: Checkpoint) -> None:
    """Write a checkpoint (an ``.npz`` archive, whatever the name), atomically.

    Raises :class:`ZoError` if a momentum state is missing, which boards do not tell.
    """
    for parameter in model.parameters:
        if parameter.moments and parameter.index not in state.best.moments:
            raise ZoError(f"{parameter.name} has a momentum state, which a board does not tell: bake the model instead")
    rates = state.progress.rates
    head = {
        "format": _FORMAT,
        "model": hashlib.sha256(model.data).hexdigest(),
        "seed": state.seed,
        "progress": {name: getattr(state.progress, name) for name in _COUNTERS},
        "rates": None if rates is None else vars(rates),
        "guard": None if state.guard is None else state.guard.values,
        "samples": state.samples,
    }
    arrays = _arrays(model, "", state.best)
    if state.unfinished is not None:
        arrays |= _arrays(model, _UNFINISHED, state.unfinished)
    if state.guard is not None:
        arrays |= {_GUARD + name: value for name, value in state.guard.arrays.items()}
    arrays["head"] = np.array(json.dumps(head))
    stream = io.BytesIO()
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
        digest, seed = head["model"], int(head["seed"])
        progress = _progress(head["progress"], head["rates"]) if known else Progress()
        guard = _guard(head["guard"], arrays) if known else None
        samples = head.get("samples")  # written since the file format has been in use
        if samples is not None and type(samples) is not int:
            raise ValueError("samples")
    except _DAMAGE as error:
        raise ZoError(f"{path} is not a checkpoint, or is damaged") from error
    if not known:
        raise ZoError(f"{path} is a checkpoint of another version of tflm-zo")
    if digest != hashlib.sha256(model.data).hexdigest():
        raise ZoError(f"{path} is a checkpoint of another model: give the patched model it was made with")
    unfinished = None
    if any(name.startswith(_UNFINISHED) for name in arrays):
        unfinished = _snapshot(path, arrays, _UNFINISHED, model)
    return Checkpoint(seed, progress, _snapshot(path, arrays, "", model), unfinished, guard, samples)


def _arrays(model: PatchedModel, prefix: str, snapshot: Snapshot) -> dict[str, np.ndarray]:
    arrays = {f"{prefix}tensors/{p.name}": snapshot.values[p.index].reshape(p.shape) for p in model.parameters}
    return arrays | {f"{prefix}moments/{model.parameters[i].name}": m for i, m in snapshot.moments.items()}


def _snapshot(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], prefix: str, model: PatchedModel
) -> Snapshot:
    values, moments = [], {}
    for p in model.parameters:
        values.append(_take(path, arrays, f"{prefix}tensors/{p.name}", p.dtype, p.shape).reshape(-1))
        if p.moments:
            moments[p.index] = _take(path, arrays, f"{prefix}moments/{p.name}", np.dtype(np.float32), (p.moments,))
    return Snapshot(values, moments)


def _progress(counters: Mapping[str, Any], rates: Mapping[str, Any] | None) -> Progress:
    if set(counters) != set(_COUNTERS) or not all(isinstance(n, int) and n >= 0 for n in counters.values()):
        raise ValueError("progress")
    if rates is None:
        return Progress(**counters)

    def number(value: Any) -> float | None:
        return None if value is None else float(value)

    def by_index(values: Mapping[str, Any]) -> dict[int, float]:
        return {int(index): float(value) for index, value in values.items()}

    found = Rates(
        number(rates["head"]), number(rates["closed"]), by_index(rates["parameters"]), by_index(rates["nodes"])
    )
    return Progress(**counters, rates=found)


def _guard(values: Any, arrays: Mapping[str, np.ndarray]) -> WatchState | None:
    if values is None:
        return None
    if not isinstance(values, dict):
        raise ValueError("guard")
    state = WatchState(values, {n.removeprefix(_GUARD): v for n, v in arrays.items() if n.startswith(_GUARD)})
    check_state(state)
    return state


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
