# SPDX-License-Identifier: Apache-2.0
"""The package's whole chain of preparation and training, as the benchmarks call it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import tflm_zo


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
    budget = {} if passes is None else {"passes": passes}
    result = tflm_zo.adapt(model, x, y, reference, seed=seed, **budget)
    return Adapted(result.model, result.prepared)
