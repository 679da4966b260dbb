# SPDX-License-Identifier: Apache-2.0
"""Packagings of TFLM for Arduino."""

from __future__ import annotations

from dataclasses import dataclass

from tflm_zo.errors import ZoError


@dataclass(frozen=True)
class TflmLibrary:
    """A packaging of TFLM for Arduino: what pulls it into a sketch, and how one gets it."""

    name: str
    header: str
    install: str
    recent: bool
    note: str = ""


TFLM_LIBRARIES = {
    "chirale": TflmLibrary(
        "Chirale_TensorFLowLite",
        "Chirale_TensorFlowLite.h",
        "arduino-cli lib install Chirale_TensorFLowLite",
        recent=False,
    ),
    "arduino-examples": TflmLibrary(
        "tflite-micro-arduino-examples",
        "TensorFlowLite.h",
        "git clone https://github.com/tensorflow/tflite-micro-arduino-examples "
        "~/Arduino/libraries/Arduino_TensorFlowLite",
        recent=False,
    ),
    "tree": TflmLibrary(
        "a library made from a current TFLM",
        "TensorFlowLite.h",
        "follow scripts/ of tflite-micro-arduino-examples with a current tflite-micro, into ~/Arduino/libraries",
        recent=True,
        note="A current TFLM is C++17. The core arduino:mbed_nano compiles C++14, and does not compile as C++17: on "
        "the\nNano 33 BLE use --tflm-library chirale or arduino-examples. This sketch is for cores with C++17, and for "
        "`micro_app/tflm`.",
    ),
}


def find_library(name: str) -> TflmLibrary:
    """Return the library that ``--tflm-library`` calls ``name``; raises :class:`ZoError` if there is none."""
    if name not in TFLM_LIBRARIES:
        raise ZoError(f"unknown TFLM library {name!r}: choose one of {', '.join(TFLM_LIBRARIES)}")
    return TFLM_LIBRARIES[name]
