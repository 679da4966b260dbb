# SPDX-License-Identifier: Apache-2.0
"""Digits: the demo's small network and drifted camera, on three splits of the images, each with its own network."""

from __future__ import annotations

from pathlib import Path

from suites.case import Case
from suites.float_network import Setting
from suites.starts import REALIGNED
from suites.suite import Method, Suite, Yardstick
from tflm_zo.conversion.convert import convert
from tflm_zo.demo.digits import drift, load_digits, train_model
from tflm_zo.files import write_atomic
from tflm_zo.model.samples import input_codes
from tflm_zo.patching.patch import patch
from tflm_zo.training.sim_trainer import SimTrainer

SPLITS = (0, 1, 2)

METHODS = (
    Method("exact head alone", {"trainable": "head"}),
    Method("exact: head + last conv", {"trainable": "exact"}),
    Method("realigned + exact", {"trainable": "exact"}, start=REALIGNED),
    Method("exact + input adapter", {"trainable": "exact", "adapter": True}),
)

GRID = (
    Setting("Adam", 3e-4, 50),
    Setting("Adam", 1e-3, 20),
    Setting("Adam", 1e-3, 50),
    Setting("Adam", 3e-3, 20),
    Setting("Adam", 3e-3, 50),
    Setting("SGD", 1e-2, 50),
    Setting("SGD", 3e-2, 50),
)
YARDSTICKS = (
    Yardstick("float back-propagation", GRID),
    Yardstick(
        "int8 back-propagation",
        tuple(Setting("QAS", rate, 50) for rate in (1e-2, 3e-2, 1e-1, 3e-1)),
        int8=True,
    ),
)


def load(data: Path, prepared: Path) -> Suite:
    """The suite; networks are trained on clean images and kept in ``prepared``."""
    cases = []
    for split in SPLITS:
        digits = load_digits(split)
        path = prepared / f"digits-{split}.tflite"
        if not path.exists():
            prepared.mkdir(parents=True, exist_ok=True)
            write_atomic(path, convert(train_model(digits, split), digits.x_pretrain))
        model = path.read_bytes()
        patched = SimTrainer(patch(model, "head")).model
        form = (patched.input_shape, patched.input_quantization)
        cases.append(
            Case(
                name=f"split {split}",
                model=model,
                x=input_codes(drift(digits.x_adapt, split + 1), *form)[:, 0],
                y=digits.y_adapt,
                x_test=input_codes(drift(digits.x_test, split + 2), *form)[:, 0],
                y_test=digits.y_test,
                x_before=input_codes(digits.x_test, *form)[:, 0],
                y_before=digits.y_test,
                reference=input_codes(digits.x_pretrain, *form)[:, 0],
            )
        )
    return Suite("digits", tuple(cases), METHODS, YARDSTICKS)
