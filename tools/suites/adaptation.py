# SPDX-License-Identifier: Apache-2.0
"""The package's whole chain of preparation and training, as the benchmarks call it."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np

import tflm_zo
from suites.cache import digest, package_digest
from suites.case import Case
from tflm_zo.files import write_atomic


class Adapted(NamedTuple):
    """Plain int8 models: at the end, and prepared only (what training began with)."""

    model: bytes
    prepared: bytes


def adapt(
    model: bytes,
    x: np.ndarray,
    y: np.ndarray,
    reference: np.ndarray,
    passes: int | None,
    seed: int,
) -> Adapted:
    """Adapt ``model`` to labelled samples ``x``, ``y`` after a drift; ``reference``: others from before it.

    ``passes`` None: the package's default.
    """
    # A bound of epochs that is never reached: passes end the training.
    budget: dict[str, Any] = {} if passes is None else {"passes": passes, "epochs": passes}
    result = tflm_zo.adapt(model, x, y, reference, seed=seed, **budget)
    return Adapted(result.model, result.prepared)


def adapted(case: Case, passes: int, seed: int) -> Adapted:
    """Adapt to the samples of a case; the models are kept in its folder, if it has one."""
    if case.folder is None:
        return adapt(case.model, case.x, case.y, case.reference, passes, seed)
    key = digest(package_digest(), case.model, case.x, case.y, case.reference, passes, seed)
    path = case.folder / f"adapted-{key}.npz"
    if not path.exists():
        result = adapt(case.model, case.x, case.y, case.reference, passes, seed)
        stream = io.BytesIO()
        np.savez_compressed(stream, *[np.frombuffer(part, dtype=np.uint8) for part in result])
        case.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, stream.getvalue())
    kept = np.load(path)
    return Adapted(*[kept[name].tobytes() for name in kept.files])
