# SPDX-License-Identifier: Apache-2.0
"""Arduino sketches and the Arduino library: folders that the Arduino IDE and ``arduino-cli`` build as they are."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tflm_zo import __version__
from tflm_zo.board.arena import ARDUINO_32, TFLM_32, plan_arena
from tflm_zo.board.boards import Board, find_board
from tflm_zo.board.model_ops import ModelOps, model_ops
from tflm_zo.board.sources import device_folder, device_sources
from tflm_zo.errors import ZoError
from tflm_zo.files import write_atomic
from tflm_zo.model.file import load_model
from tflm_zo.patching.frozen_prefix import SplitModel, split
from tflm_zo.patching.patched_model import PatchedModel, read_patched
from tflm_zo.training.rates import head_limit

# Arduino builds everything under src/, of a sketch as of a library; the header's includes name the folder beside it.
_HEADER = "src/TflmZo.h"
_SOURCES = "src/tflm_zo"
_BY_LIBRARY, _BY_SKETCH = "#include <TflmZo.h>", '#include "src/TflmZo.h"'
DEFAULT_EXAMPLE = "Learner"
# What an example needs besides.
_EXAMPLE_LIBRARIES = {
    "SensorLearner": "arduino-cli lib install Arduino_LSM9DS1  # on a Sense Rev2 Arduino_BMI270_BMM150: see the sketch"
}
# Beyond what the plan says, against differences between versions of TFLM and of its kernels.
_ARENA_RESERVE = 0.03
_ARENA_GRAIN = 256
# Samples that one training step may have on the board, unless the caller wants another number.
DEFAULT_BATCH = 16
# A ChannelSum of kernels/recalibrate.h.
CHANNEL_SUM_BYTES = 16


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


@dataclass(frozen=True)
class Export:
    """What an export wrote, and the sizes in it (bytes)."""

    files: tuple[str, ...]
    model_bytes: int
    arena_bytes: int
    batch_bytes: int
    ops: tuple[str, ...]


def example_names() -> list[str]:
    """Return the programs that a sketch can be made of."""
    return sorted(path.name for path in (device_folder("micro_app") / "examples").iterdir() if path.is_dir())


def export_sketch(
    model: bytes,
    folder: str | os.PathLike[str],
    *,
    board: str = "nano33ble",
    tflm_library: str = "chirale",
    batch_size: int = DEFAULT_BATCH,
    example: str = DEFAULT_EXAMPLE,
) -> Export:
    """Write a sketch that runs and trains the patched ``model`` into ``folder`` (made if it is missing).

    The folder's name becomes the sketch's; the IDE opens it, ``arduino-cli`` compiles it, with nothing to install
    but the board's core and the TFLM library. Files of an earlier export are replaced, others left alone.
    batch_size: the most samples that a training step may have on the board. example: the program, one of
    :func:`example_names`.

    Raises :class:`ZoError` if the model is not patched, has an op that the library lacks, or the folder's name is
    none for a sketch.
    """
    target = Path(folder)
    name = target.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name):
        raise ZoError(
            f"{name!r} cannot be the name of a sketch: use up to 63 letters, digits, _, . and -, a letter or digit "
            "first"
        )
    device, library = find_board(board), _find_library(tflm_library)
    model_files, export = _model_files(model, library, batch_size)
    program = _example(example)
    files = {f"{_SOURCES}/{path}": data for path, data in device_sources().items()}
    files[_HEADER] = (device_folder("micro_app") / _HEADER).read_bytes()
    for path, data in (program | model_files).items():
        renamed = f"{name}.ino" if path == f"{example}.ino" else path
        files[renamed] = data.replace(_BY_LIBRARY.encode(), _BY_SKETCH.encode())
    files["README.md"] = _readme(name, device, library, example, export.arena_bytes).encode()
    _write(target, files)
    return replace(export, files=tuple(sorted(files)))


def export_library(
    folder: str | os.PathLike[str],
    model: bytes | None = None,
    *,
    tflm_library: str = "chirale",
    batch_size: int = DEFAULT_BATCH,
) -> tuple[str, ...]:
    """Write the Arduino library (library.properties, keywords.txt, src/) into ``folder``; returns its files' names.

    With a patched ``model`` the library gets its examples too, each with that model. Raises :class:`ZoError` as
    :func:`export_sketch` does.
    """
    origin = device_folder("micro_app")
    files = {f"{_SOURCES}/{path}": data for path, data in device_sources().items()}
    for path in ("library.properties", "keywords.txt", _HEADER):
        files[path] = (origin / path).read_bytes()
    if model is not None:
        model_files, _ = _model_files(model, _find_library(tflm_library), batch_size)
        for example in example_names():
            files |= {f"examples/{example}/{p}": data for p, data in (_example(example) | model_files).items()}
    _write(Path(folder), files)
    return tuple(sorted(files))


def _find_library(name: str) -> TflmLibrary:
    if name not in TFLM_LIBRARIES:
        raise ZoError(f"unknown TFLM library {name!r}: choose one of {', '.join(TFLM_LIBRARIES)}")
    return TFLM_LIBRARIES[name]


def _example(name: str) -> dict[str, bytes]:
    if name not in example_names():
        raise ZoError(f"unknown example {name!r}: choose one of {', '.join(example_names())}")
    folder = device_folder("micro_app") / "examples" / name
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def _model_files(model: bytes, library: TflmLibrary, batch_size: int) -> tuple[dict[str, bytes], Export]:
    """The files that are written for one model, and their sizes."""
    if not 1 <= batch_size <= 4096:
        raise ZoError(f"batch_size is {batch_size}: it must be from 1 to 4096")
    patched = read_patched(model)
    parts = split(patched.data)
    ops = model_ops(load_model(model), library.recent)
    arena = arena_size(patched.data, parts, library.recent)
    batch = batch_bytes(patched, parts, batch_size)
    files = {
        "model.h": _model_header(patched, arena, batch).encode(),
        "model.cpp": _model_source(patched.data, parts).encode(),
        "model_ops.h": _ops_header(ops).encode(),
        "tflm_library.h": _library_header(library).encode(),
    }
    names = (*ops.builtin, *(op.registration for op in ops.training))
    return files, Export(tuple(sorted(files)), len(patched.data), arena, batch, names)


def board_trees(model: bytes, parts: SplitModel | None) -> list[Any]:
    """Return the models that a patched model is run as on a board, in the order in which they get their memory."""
    return [load_model(data) for data in ((model,) if parts is None else (parts.suffix, parts.prefix))]


def arena_size(model: bytes, parts: SplitModel | None, recent: bool) -> int:
    """Return the arena (bytes) that a patched model, split into ``parts``, is given on a board: the plan for
    CMSIS-NN's kernels, which need scratch memory, with a reserve of 3 percent, rounded up."""
    required = plan_arena(board_trees(model, parts), TFLM_32 if recent else ARDUINO_32, cmsis_nn=True).required
    return -(-int(required * (1 + _ARENA_RESERVE)) // _ARENA_GRAIN) * _ARENA_GRAIN


def batch_bytes(model: PatchedModel, parts: SplitModel | None, samples: int) -> int:
    """Return the memory that a board needs for the samples of a step, with their labels.

    Where the frozen layers make of a sample what is smaller, that is kept instead of it; the last one comes in whole.
    """
    whole = input_bytes(model) + target_bytes(model)
    return whole + (samples - 1) * kept_sample_bytes(model, parts)


def kept_sample_bytes(model: PatchedModel, parts: SplitModel | None) -> int:
    """Return the bytes that one more sample of a step takes on a board."""
    sample = input_bytes(model)
    return (sample if parts is None else min(sample, parts.kept_bytes)) + target_bytes(model)


def input_bytes(model: PatchedModel) -> int:
    """Return the bytes of one sample in the model's input tensor."""
    width = 1 if model.input_quantization is not None else 4
    return width * _product(model.input_shape)


def target_bytes(model: PatchedModel) -> int:
    """Return the bytes of one label in the model's target tensor."""
    return 4 if model.loss.classes else _product(model.target_shape)


def reference_channels(model: PatchedModel) -> int:
    """Return how many channels a board adds up to recalibrate the input adapter, 0 if the model has no reference."""
    return 0 if model.reference is None else model.reference.mean.size


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for length in shape:
        result *= length
    return result


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ZoError(f"cannot make {path.parent}: {error.strerror}") from error
        write_atomic(path, data)


def _model_header(model: PatchedModel, arena: int, batch: int) -> str:
    digest = hashlib.sha256(model.data).hexdigest()
    codes = model.input_quantization
    scale, zero_point = (1.0, 0) if codes is None else (codes.scale, codes.zero_point)
    return f"""// Written by tflm-zo {__version__}. Export the model again instead of editing this file.
#ifndef MODEL_H_
#define MODEL_H_

#include <cstddef>
#include <cstdint>

// SHA-256 {digest}
constexpr size_t kModelBytes = {len(model.data)};
extern const uint8_t* const kModel;  // in flash, aligned to 16 bytes

// What runs: the model, or its frozen layers in front (nullptr: none), which run once for a sample, and the rest. They
// share the model's constants.
extern const uint8_t* const kRestModel;
extern const uint8_t* const kFrozenModel;

// Tells checkpoints of this model from those of others: the first 8 bytes of the hash.
constexpr uint64_t kModelHash = 0x{digest[:16]}u;

// What TFLM needs in RAM for tensors, trainable weights and its own structures.
constexpr size_t kArenaBytes = {arena};

// One sample and its label, and the samples that a training step may have at most.
constexpr uint32_t kInputBytes = {input_bytes(model)};
constexpr uint32_t kTargetBytes = {target_bytes(model)};
constexpr size_t kBatchBytes = {batch};

// Channels of the input adapter that it can be recalibrated for; 0: the model was patched without --reference.
constexpr uint32_t kReferenceChannels = {reference_channels(model)};

// The input: its shape, and, if it is int8, the code of a value: round(value / kInputScale) + kInputZeroPoint.
constexpr uint32_t kInputShape[] = {{{", ".join(map(str, model.input_shape))}}};
constexpr bool kInputIsInt8 = {"false" if codes is None else "true"};
constexpr float kInputScale = {scale:.8e}f;
constexpr int32_t kInputZeroPoint = {zero_point};

// Classes that a label can name; 0: the labels are vectors.
constexpr int32_t kClasses = {model.loss.classes};

// What a board that learns by itself measures its learning rates with (OnDeviceTrainer::Measure, RatesOf): rate times
// kernel of the head, and the nodes that the head gives the gradient of, [first, last).
constexpr float kHeadLimit = {head_limit(model):.8e}f;
constexpr int32_t kFirstExactNode = {model.closed_nodes.start};
constexpr int32_t kLastExactNode = {model.closed_nodes.stop};

#endif  // MODEL_H_
"""


def _model_source(data: bytes, parts: SplitModel | None) -> str:
    image = data if parts is None else parts.image
    model = "kImage" if parts is None else f"kImage + {parts.model_offset}"
    frozen = "nullptr" if parts is None else f"kImage + {parts.prefix_offset}"
    lines = [
        f"// Written by tflm-zo {__version__}. Export the model again instead of editing this file.",
        '#include "model.h"',
        "",
        f"alignas(16) static const uint8_t kImage[{len(image)}] = {{",
    ]
    for start in range(0, len(image), 20):
        lines.append("    " + ", ".join(str(b) for b in image[start : start + 20]) + ",")
    lines += [
        "};",
        "",
        f"const uint8_t* const kModel = {model};",
        "const uint8_t* const kRestModel = kImage;",
        f"const uint8_t* const kFrozenModel = {frozen};",
        "",
    ]
    return "\n".join(lines)


def _ops_header(ops: ModelOps) -> str:
    calls = [f"ops_.{method}() == kTfLiteOk" for method in ops.builtin]
    calls += [f"tflm_zo::AddOp(&ops_, tflm_zo::{op.name}, tflm_zo::{op.registration}())" for op in ops.training]
    body = " &&\n           ".join(calls)
    return f"""// Written by tflm-zo {__version__}. Export the model again instead of editing this file.
#ifndef MODEL_OPS_H_
#define MODEL_OPS_H_

{_BY_LIBRARY}

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

// The ops of this model and no others, so that no other op takes flash.
class ModelOps {{
 public:
  // False: TFLM refused one, and has printed which.
  bool Add() {{
    return {body};
  }}

  const tflite::MicroOpResolver& resolver() const {{ return ops_; }}

 private:
  tflite::MicroMutableOpResolver<{ops.count}> ops_;
}};

#endif  // MODEL_OPS_H_
"""


def _library_header(library: TflmLibrary) -> str:
    return f"""// Written by tflm-zo {__version__}.
//
// The one line that says which TFLM the sketch is built with: {library.name}.
#ifndef TFLM_LIBRARY_H_
#define TFLM_LIBRARY_H_

#include <{library.header}>

#endif  // TFLM_LIBRARY_H_
"""


def _readme(name: str, board: Board, library: TflmLibrary, example: str, arena: int) -> str:
    core = ":".join(board.fqbn.split(":")[:2])
    note = f"\n{library.note}\n" if library.note else ""
    sensor = _EXAMPLE_LIBRARIES.get(example)
    more = "" if sensor is None else f"\n    {sensor}"
    return f"""# {name}: a model that learns on the {board.title}

Written by tflm-zo {__version__}. Everything the sketch needs is in this folder, except the board's core and the
libraries. In the Arduino IDE get "{board.core_title}" from the Boards Manager and {library.name} as below,
open `{name}.ino`, choose the board and its port, and upload. With arduino-cli:

    arduino-cli core update-index
    arduino-cli core install {core}
    {library.install}{more}
    arduino-cli compile --fqbn {board.fqbn} --build-property {board.size_property} .
    arduino-cli upload --fqbn {board.fqbn} --port /dev/ttyACM0 .

`tflm-zo build .` and `tflm-zo flash .` run the last two. The build property keeps the program out of the last
{board.checkpoints // 1024} KB of flash, where the board saves what it has learned; a program that was built without it
checks that itself when it starts, and says so over the serial port.
{note}
For another TFLM library export again with `--tflm-library`: the arena depends on it.

| file | what |
|---|---|
| {name}.ino | the program |
| model.h, model.cpp | the model, and the memory it needs (arena: {arena} bytes) |
| model_ops.h | the ops it needs, and no others |
| src/tflm_zo/ | the training ops and the app |
"""
