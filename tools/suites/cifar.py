# SPDX-License-Identifier: Apache-2.0
"""Images: MLPerf Tiny's ResNet-8 on CIFAR-10 test images, corrupted at the highest severity."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from suites.cache import digest
from suites.case import Case
from suites.corruptions import CORRUPTIONS, corrupted
from suites.float_network import Setting
from suites.starts import FILTERED, PREPARED, REALIGNED
from suites.suite import Method, Suite, Yardstick
from tflm_zo.files import write_atomic

ADAPT, TEST = 1000, 2000

METHODS = (
    Method("exact: head + last block", {"trainable": "exact"}),
    Method("realigned + exact", {"trainable": "exact"}, start=REALIGNED),
    Method("filtered, realigned + exact", {"trainable": "exact"}, start=FILTERED),
    Method("adapt", start=PREPARED, chain=True),
)

# The network's real input is 0 to 255: rates that suit the other layers are large for its first.
GRID = (
    Setting("Adam", 3e-4, 60, True),
    Setting("Adam", 1e-4, 30),
    Setting("SGD", 3e-3, 30, True),
)
# A realigned model is closer to its goal.
SHORT_GRID = (Setting("Adam", 3e-4, 30, True), *GRID[1:])
# One held-out quarter for each setting: trainings of this network take long.
YARDSTICKS = (
    Yardstick("float back-propagation", GRID, parts=4, folds=1),
    Yardstick("the same, realigned", SHORT_GRID, start=REALIGNED, parts=4, folds=1),
    Yardstick("the same, filtered and realigned", SHORT_GRID, start=FILTERED, parts=4, folds=1),
)


def load(data: Path, prepared: Path) -> Suite:
    """The suite from the folder of models and samples; corrupted images are kept in ``prepared``."""
    samples = np.load(data / "cifar10_jpeg_dev.npz")
    model = (data / "mlperf_tiny" / "pretrainedResnet_quant.tflite").read_bytes()
    images, y = samples["x"], samples["y"].astype(np.int32)
    before = (_codes(images), y)
    cases = []
    for name in CORRUPTIONS:
        after = (_codes(_kept(images, name, prepared)), y)
        cases.append(Case.cut(name.replace("_", " "), model, before=before, after=after, adapt=ADAPT, test=TEST))
    return Suite("cifar", tuple(cases), METHODS, YARDSTICKS)


def _codes(images: np.ndarray) -> np.ndarray:
    return (images.astype(np.int16) - 128).astype(np.int8)


def _kept(images: np.ndarray, corruption: str, folder: Path) -> np.ndarray:
    path = folder / f"{corruption}-{digest(images)}.npy"
    if path.exists():
        return np.asarray(np.load(path))
    result = corrupted(images, corruption)
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    np.save(stream, result)
    write_atomic(path, stream.getvalue())
    return result
