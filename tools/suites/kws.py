# SPDX-License-Identifier: Apache-2.0
"""Keyword spotting: MLPerf Tiny's DS-CNN on real utterances whose features drift."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from suites.case import Case
from suites.float_network import Setting
from suites.starts import REALIGNED
from suites.suite import Method, Suite, Yardstick

ADAPT, TEST = 400, 300

METHODS = (
    Method("exact head alone", {"trainable": "head"}),
    Method("exact: head + last conv", {"trainable": "exact"}),
    Method("exact + input adapter", {"trainable": "exact", "adapter": True}),
    Method("realigned + exact", {"trainable": "exact"}, start=REALIGNED),
    Method("realigned + exact + adapter", {"trainable": "exact", "adapter": True}, start=REALIGNED),
)

GRID = (
    Setting("Adam", 3e-4, 50),
    Setting("Adam", 1e-3, 20),
    Setting("Adam", 1e-3, 50),
    Setting("SGD", 3e-3, 20),
)
YARDSTICKS = (
    Yardstick("float back-propagation", (*GRID, Setting("Adam", 3e-4, 50, True), Setting("Adam", 1e-3, 20, True))),
    Yardstick("the same with the adapter", GRID[:3], adapter=True),
    Yardstick("the same, realigned", GRID[:3], start=REALIGNED),
    Yardstick(
        "int8 back-propagation",
        (Setting("QAS", 1e-2, 50), Setting("QAS", 3e-2, 20), Setting("QAS", 3e-2, 50), Setting("QAS", 1e-1, 20)),
        int8=True,
    ),
)


def _noise(x: np.ndarray) -> np.ndarray:
    return x + np.random.default_rng(7).normal(0, 5, x.shape)


def _shift(x: np.ndarray) -> np.ndarray:
    """Four frames late; the first frame stands in for what came before."""
    return np.asarray(np.concatenate([np.repeat(x[:, :1], 4, axis=1), x[:, :-4]], axis=1))


def _contrast(x: np.ndarray) -> np.ndarray:
    mean = x.mean(axis=(1, 2), keepdims=True)
    return np.asarray(mean + (x - mean) / 2)


# In codes of the model's input (samples, frames, coefficients).
DRIFTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gain +15": lambda x: x + 15,
    "gain -15": lambda x: x - 15,
    "tilt": lambda x: x + np.linspace(-20, 20, 10),
    "noise": _noise,
    "time shift": _shift,
    "contrast": _contrast,
    "gain +15, noise": lambda x: _noise(x + 15),
}


def load(data: Path, prepared: Path) -> Suite:
    """The suite from the folder of models and samples; nothing is prepared."""
    samples = np.load(data / "kws01_dev.npz")
    model = (data / "mlperf_tiny" / "kws_ref_model.tflite").read_bytes()
    x, y = samples["x"], samples["y"]
    cases = []
    for name, drift in DRIFTS.items():
        seen = np.clip(np.rint(drift(x[..., 0].astype(np.float64))), -128, 127).astype(np.int8)[..., None]
        cases.append(Case.cut(name, model, before=(x, y), after=(seen, y), adapt=ADAPT, test=TEST))
    return Suite("kws", tuple(cases), METHODS, YARDSTICKS)
