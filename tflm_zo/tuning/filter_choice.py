# SPDX-License-Identifier: Apache-2.0
"""Which filter in front of a realigned model suits the samples."""

from __future__ import annotations

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.patching.patch import patch
from tflm_zo.realignment.filters import FILTERS, NO_FILTER
from tflm_zo.realignment.realign import Realigner
from tflm_zo.training.folds import into_folds, join, score_fold
from tflm_zo.training.samples import loss_and_labels

# Short trainings tell filters apart; the loss of untrained models would mislead (docs/research.md).
_FOLDS, _EPOCHS = 2, 4


def choose_filter(model: bytes, reference: np.ndarray, x: np.ndarray, y: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Return the held-out loss of the realigned ``model``, shortly trained, by filter in front, the lowest first.

    "none" is among them. ``model``, ``reference`` and ``x`` are those of :func:`tflm_zo.realign`, ``y`` labels
    for ``x`` (class indices, or vectors for models that a squared error suits). What ``patch`` trains by default is
    trained on each half of the samples for four epochs and scored on the other: with realignment about seven forward
    passes a sample and filter, and two on the reference. Raises :class:`ZoError` as realignment and patching do, and
    for models that do not take images.
    """
    realigner = Realigner(model, reference, x)
    side = min(realigner.input_shape[1:3]) if len(realigner.input_shape) == 4 else 0
    names = [name for name, kernel in FILTERS.items() if len(kernel) <= side]
    if not names:
        raise ZoError(f"filters are for images, and the model's input is {list(realigner.input_shape)}")
    loss, y = loss_and_labels(model, "auto", x, y)
    samples = into_folds(x, y, _FOLDS, seed)
    passes = _EPOCHS * (len(samples.x) - len(samples.x) // _FOLDS)
    losses = {}
    for name in [NO_FILTER, *names]:
        patched = patch(realigner.run(name), loss=loss)
        scores = [score_fold(patched, samples, fold, seed, passes, {}) for fold in range(_FOLDS)]
        losses[name] = join(scores).loss
    return dict(sorted(losses.items(), key=lambda item: item[1]))
