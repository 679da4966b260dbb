# SPDX-License-Identifier: Apache-2.0
"""Anomaly detection: MLPerf Tiny's ToyCar autoencoder on a synthetic family of spectra, whose microphone drifts.

The samples are made, for lack of a public set beside the model: random smooth spectra of 128 bands, the same in all
five frames, drawn by the network itself towards what it can reconstruct (its reconstruction of its reconstruction),
plus noise. So the network's error is small before the drift, as it is on the machine sounds it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from suites.case import Case
from suites.float_network import Setting
from suites.suite import Method, Suite, Yardstick
from tflm_zo import patch
from tflm_zo.model.quantization import dequantize
from tflm_zo.training.sim_trainer import SimTrainer

BANDS, FRAMES = 128, 5
ADAPT, TEST = 400, 300
_RANK = 6
_NOISE = 2.0  # codes
_DRAWN = 10

METHODS = (
    Method("exact head alone", {"trainable": "head"}),
    Method("exact head + input adapter", {"trainable": "head", "adapter": True}),
)

GRID = (
    Setting("Adam", 1e-4, 50, True),
    Setting("Adam", 3e-4, 50, True),
    Setting("Adam", 1e-3, 50, True),
    Setting("Adam", 1e-4, 200, True),
    Setting("Adam", 3e-4, 200, True),
    Setting("SGD", 3e-3, 50, True),
    Setting("SGD", 3e-3, 200, True),
    Setting("SGD", 3e-3, 50),
)
YARDSTICKS = (
    Yardstick("float back-propagation", GRID),
    Yardstick(
        "int8 back-propagation",
        tuple(Setting("QAS", rate, epochs, True) for rate in (1e-3, 3e-3, 1e-2) for epochs in (50, 200)),
        int8=True,
    ),
)


def _tilt(x: np.ndarray) -> np.ndarray:
    return x + np.tile(np.linspace(-20, 20, BANDS), FRAMES)


# In codes of the input, one of which is 0.39 dB.
DRIFTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gain +15": lambda x: x + 15,
    "tilt": _tilt,
    "gain +15, tilt": lambda x: _tilt(x + 15),
}


def spectra(model: bytes, count: int, seed: int = 0) -> np.ndarray:
    """Return ``count`` spectra as the network knows them, codes float64 (count, 640), with noise."""
    rng = np.random.default_rng(seed)
    network = SimTrainer(patch(model, "head"))
    output, source = network.model.output_quantization, network.model.input_quantization
    assert source is not None and output is not None
    band = np.linspace(0, 1, BANDS)
    basis = np.stack([np.cos(np.pi * k * band) / (1 + k / 2) for k in range(_RANK)])
    decibels = -30 - 10 * band + 8 * rng.normal(size=(count, _RANK)) @ basis
    x = np.tile(decibels, FRAMES) / source.scale + source.zero_point
    for _ in range(_DRAWN):
        x = dequantize(network.predict_codes(to_codes(x)), output) / source.scale + source.zero_point
    return np.asarray(x + rng.normal(0, _NOISE, x.shape))


def to_codes(x: np.ndarray) -> np.ndarray:
    """Rounded and clipped to int8."""
    return np.asarray(np.clip(np.rint(x), -128, 127).astype(np.int8))


def load(data: Path, prepared: Path) -> Suite:
    """The suite from the folder of models; its samples are made here."""
    model = (data / "mlperf_tiny" / "ad01_int8.tflite").read_bytes()
    source = SimTrainer(patch(model, "head")).model.input_quantization
    assert source is not None
    x = spectra(model, ADAPT + TEST)
    cases = []
    for name, drift in DRIFTS.items():
        # An autoencoder's target is its input, in real units.
        before, after = ((codes, dequantize(codes, source)) for codes in (to_codes(x), to_codes(drift(x))))
        cases.append(Case.cut(name, model, before=before, after=after, adapt=ADAPT, test=TEST, loss="mse"))
    return Suite("ad01", tuple(cases), METHODS, YARDSTICKS)
