# SPDX-License-Identifier: Apache-2.0
"""Windows of an inertial sensor: recordings that the PyPI package ``seglearn`` ships.

Smartwatches on the wrists of ten people who did seven exercises of physiotherapy with either arm: acceleration and
rotation around three axes each, 50 Hz (Burns et al., "Shoulder physiotherapy exercise recognition", Physiological
Measurement 39(7), 2018). Networks are trained on six people. The four others wear the watch: adaptation takes the first
half of each of their recordings, the test the second half. Or else two of the four adapt it, and the other two test it:
then samples held out of adaptation do not tell what is right for those who test.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from tflm_zo.errors import ZoError

FRAMES, AXES = 100, 6

# People, and the part of their recordings: from where to where, as shares of the length.
_Part = tuple[tuple[int, ...], float, float]

_TRAIN, _WEARERS = (2, 4, 6, 7, 8, 10), (1, 3, 5, 9)
# Rotation is in rad/s and three times as wide as acceleration, which is in g.
_ROTATION = 3.0
# One window in 10,000 goes beyond; its extremes would cost all others their resolution in int8.
_LIMIT = 4.0


def load_windows(*, other_people: bool = False) -> tuple[np.ndarray, ...]:
    """Return x_train, y_train, x_adapt, y_adapt, x_test, y_test: float32 (n, 100, 6) and classes.

    other_people: those who test are not those who adapt. Windows to train on overlap by half, others do not. Raises
    :class:`ZoError` if seglearn is not installed.
    """
    package = importlib.util.find_spec("seglearn")
    if package is None or package.origin is None:
        raise ZoError("the inertial recordings are those of seglearn: pip install 'tflm-zo[bench]'")
    # The package itself does not import with today's scikit-learn; its data do not need it.
    data = np.load(Path(package.origin).parent / "data" / "watch_dataset.npy", allow_pickle=True).item()
    halves = len(_WEARERS) // 2
    adapt: _Part = (_WEARERS, 0.0, 0.5)
    test: _Part = (_WEARERS, 0.5, 1.0)
    if other_people:
        adapt, test = (_WEARERS[:halves], 0.0, 1.0), (_WEARERS[halves:], 0.0, 1.0)
    train = _windows(data, (_TRAIN, 0.0, 1.0), FRAMES // 2)
    return (*train, *_windows(data, adapt, FRAMES), *_windows(data, test, FRAMES))


def _windows(data: dict, part: _Part, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows and classes, in random order, of some people's recordings from one part of their length to another."""
    people, first, last = part
    windows, labels = [], []
    for recording, label, person in zip(data["X"], data["y"], data["subject"], strict=True):
        if person in people:
            taken = recording[round(first * len(recording)) : round(last * len(recording))]
            starts = range(0, len(taken) - FRAMES + 1, hop)
            windows += [taken[start : start + FRAMES] for start in starts]
            labels += [label] * len(starts)
    x = np.array(windows) / np.repeat([1.0, _ROTATION], AXES // 2)
    order = np.random.default_rng(0).permutation(len(x))
    return np.clip(x, -_LIMIT, _LIMIT).astype(np.float32)[order], np.array(labels, dtype=np.int32)[order]
