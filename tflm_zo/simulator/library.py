# SPDX-License-Identifier: Apache-2.0
"""Finds and loads the simulator's shared library; the ctypes side of ``kernels/sim/sim_api.h`` and
``train_api.h``."""

from __future__ import annotations

import ctypes
import importlib.resources
import os
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_void_p
from functools import lru_cache
from pathlib import Path

from tflm_zo.errors import ZoError
from tflm_zo.files import library_names

LIBRARY_STEM = "libtflm_zo_sim"
LIBRARY_VARIABLE = "TFLM_ZO_SIM_LIBRARY"

INSTRUCTION_SETS = {"auto": 0, "portable": 1, "avx2": 2, "avx512vnni": 3, "neon": 4}


class Window(ctypes.Structure):
    """``TflmZoSimWindow``."""

    _fields_ = [
        (name, c_int32)
        for name in (
            "input_height",
            "input_width",
            "channels",
            "kernel_height",
            "kernel_width",
            "stride_height",
            "stride_width",
            "dilation_height",
            "dilation_width",
            "pad_top",
            "pad_left",
            "output_height",
            "output_width",
        )
    ]


class Quantization(ctypes.Structure):
    """``TflmZoSimQuantization``."""

    _fields_ = [
        ("multiplier", POINTER(c_int32)),
        ("left_shift", POINTER(c_int32)),
        ("right_shift", POINTER(c_int32)),
        ("input_zero_point", c_int32),
        ("output_zero_point", c_int32),
        ("activation_min", c_int32),
        ("activation_max", c_int32),
    ]


class MeanParams(ctypes.Structure):
    """``TflmZoSimMeanParams``."""

    _fields_ = [
        (name, c_int32)
        for name in (
            "outer",
            "count",
            "inner",
            "input_zero_point",
            "multiplier",
            "left_shift",
            "right_shift",
            "output_zero_point",
        )
    ]


class AddParams(ctypes.Structure):
    """``TflmZoSimAddParams``."""

    _fields_ = [
        (name, c_int32)
        for name in (
            "first_zero_point",
            "first_multiplier",
            "first_right_shift",
            "second_zero_point",
            "second_multiplier",
            "second_right_shift",
            "output_multiplier",
            "output_right_shift",
            "output_zero_point",
            "activation_min",
            "activation_max",
        )
    ]


class ProductParams(ctypes.Structure):
    """``TflmZoSimProductParams``."""

    _fields_ = [
        (name, c_int32)
        for name in (
            "first_zero_point",
            "second_zero_point",
            "multiplier",
            "left_shift",
            "right_shift",
            "output_zero_point",
            "activation_min",
            "activation_max",
        )
    ]


class Operand(ctypes.Structure):
    """``TflmZoSimOperand``."""

    _fields_ = [("tensor", c_int32), ("constant", c_void_p), ("places", c_void_p)]


class RequantizeParams(ctypes.Structure):
    """``TflmZoSimRequantizeParams``."""

    _fields_ = [
        (name, c_int32) for name in ("input_zero_point", "multiplier", "left_shift", "right_shift", "output_zero_point")
    ]


class LogisticParams(ctypes.Structure):
    """``TflmZoSimLogisticParams``."""

    _fields_ = [(name, c_int32) for name in ("input_zero_point", "radius", "multiplier", "left_shift")]


class TrainingTensor(ctypes.Structure):
    """``TflmZoSimTensor``."""

    _fields_ = [("type", c_int32), ("elements", c_int32), ("data", c_void_p)]


class TrainingOp(ctypes.Structure):
    """``TflmZoSimOp``."""

    _fields_ = [
        ("inputs", POINTER(c_int32)),
        ("input_count", c_int32),
        ("outputs", POINTER(c_int32)),
        ("output_count", c_int32),
        ("options", c_char_p),
        ("option_bytes", c_int64),
    ]


class TrainingParameter(ctypes.Structure):
    """``TflmZoSimParameter``."""

    _fields_ = [("first_layer", c_int32), ("last_layer", c_int32)]


class TrainingNode(ctypes.Structure):
    """``TflmZoSimNode``."""

    _fields_ = [
        ("op", TrainingOp),
        *(
            (name, c_int32)
            for name in ("number", "layer", "first_change", "input", "output", "closed_form", "accumulates")
        ),
    ]


class Training(ctypes.Structure):
    """``TflmZoSimTraining``."""

    _fields_ = [
        ("tensors", POINTER(TrainingTensor)),
        ("tensor_count", c_int32),
        ("parameter_op", TrainingOp),
        ("loss_op", TrainingOp),
        ("parameters", POINTER(TrainingParameter)),
        ("parameter_count", c_int32),
        ("nodes", POINTER(TrainingNode)),
        ("node_count", c_int32),
        *(
            (name, c_int32)
            for name in (
                "layers",
                "head_layer",
                "command",
                "target",
                "report",
                "input",
                "logits",
                "features",
                "output",
            )
        ),
    ]


_PARAMETERS = [c_void_p, c_void_p, POINTER(Quantization)]
_OPERANDS = [POINTER(Operand), POINTER(Operand)]
_BINDINGS = [POINTER(c_int32), POINTER(c_void_p), c_int32]
_PROTOTYPES = {
    "create": (c_void_p, [POINTER(c_int64), c_int32, c_int32]),
    "destroy": (None, [c_void_p]),
    "error": (c_char_p, [c_void_p]),
    "instruction_set": (c_int32, [c_void_p]),
    "add_conv": (
        c_int32,
        [c_void_p, c_int32, c_int32, POINTER(Window), c_int32, c_int32, *_PARAMETERS],
    ),
    "add_depthwise": (
        c_int32,
        [c_void_p, c_int32, c_int32, POINTER(Window), c_int32, *_PARAMETERS],
    ),
    "add_average_pool": (
        c_int32,
        [c_void_p, c_int32, c_int32, POINTER(Window), c_int32, c_int32],
    ),
    "add_max_pool": (c_int32, [c_void_p, c_int32, c_int32, POINTER(Window), c_int32, c_int32]),
    "add_mean": (c_int32, [c_void_p, c_int32, c_int32, POINTER(MeanParams)]),
    "add_add": (c_int32, [c_void_p, c_int32, c_int32, c_int32, POINTER(AddParams)]),
    "add_sum": (c_int32, [c_void_p, *_OPERANDS, c_int32, POINTER(AddParams), c_int32]),
    "add_product": (c_int32, [c_void_p, *_OPERANDS, c_int32, POINTER(ProductParams)]),
    "add_requantize": (c_int32, [c_void_p, c_int32, c_int32, POINTER(RequantizeParams)]),
    "add_logistic": (c_int32, [c_void_p, c_int32, c_int32, POINTER(LogisticParams)]),
    "add_pad": (c_int32, [c_void_p, c_int32, c_int32, c_void_p, c_int32]),
    "add_softmax": (c_int32, [c_void_p] + [c_int32] * 6),
    "add_reshape": (c_int32, [c_void_p, c_int32, c_int32]),
    "finish": (c_int32, [c_void_p]),
    "run": (
        c_int32,
        [c_void_p, c_int32, c_int32, c_int64, *_BINDINGS, c_int32, c_void_p],
    ),
    "trainer_create": (c_void_p, [c_void_p, POINTER(Training)]),
    "trainer_destroy": (None, [c_void_p]),
    "trainer_error": (c_char_p, [c_void_p]),
    "trainer_run": (c_int32, [c_void_p] * 4 + [c_int32] + [c_void_p] * 2),
    "samples_create": (c_void_p, [c_void_p, c_void_p, c_void_p, c_int64, c_int32]),
    "samples_destroy": (None, [c_void_p]),
}


def _candidates() -> list[Path]:
    package = Path(__file__).resolve().parents[1]
    # An editable install keeps compiled files apart from the sources.
    installed = Path(str(importlib.resources.files("tflm_zo")))
    builds = package.parent / "build"
    folders = [package, installed, builds, builds / "sim", builds / "kernels" / "sim"]
    return [folder / name for folder in folders for name in library_names(LIBRARY_STEM)]


def find_library() -> Path:
    """Return the path of the shared library.

    ``TFLM_ZO_SIM_LIBRARY`` in the environment decides if it is set; otherwise the package's folder
    and the source tree's ``build`` folder are searched. Raises :class:`ZoError` if it is nowhere.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise ZoError(f"{LIBRARY_VARIABLE} names {named}, which is not a file")
        return Path(named)
    for candidate in _candidates():
        if candidate.is_file():
            return candidate
    raise ZoError(
        f"the simulator's library ({LIBRARY_STEM}) is missing: install the package with `pip install .`, "
        f"or build it with `cmake -S kernels/sim -B build/sim && cmake --build build/sim`"
    )


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL:
    """Load the library once and declare its functions. Raises :class:`ZoError` if that fails."""
    path = find_library()
    try:
        library = ctypes.CDLL(os.fspath(path))
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(library, f"tflm_zo_sim_{name}")
            function.restype = result
            function.argtypes = arguments
    except (OSError, AttributeError) as error:
        raise ZoError(f"{path} is not a usable simulator library, rebuild it: {error}") from error
    return library
