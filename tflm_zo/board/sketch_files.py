# SPDX-License-Identifier: Apache-2.0
"""The files of a sketch that are written for its model."""

from __future__ import annotations

import hashlib
from importlib.metadata import version

from tflm_zo.board.boards import Board
from tflm_zo.board.memory import input_bytes, reference_channels, target_bytes
from tflm_zo.board.model_ops import ModelOps
from tflm_zo.board.tflm_libraries import TflmLibrary
from tflm_zo.patching.frozen_prefix import SplitModel
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.training.rates import head_limit

_VERSION = version("tflm-zo")

# How a program of micro_app/examples includes the library, and how it does within a sketch.
BY_LIBRARY, BY_SKETCH = "#include <TflmZo.h>", '#include "src/TflmZo.h"'

# How to get what an example needs besides the libraries above.
_EXAMPLE_LIBRARIES = {
    "SensorLearner": "arduino-cli lib install Arduino_LSM9DS1  # on a Sense Rev2 Arduino_BMI270_BMM150: see the sketch"
}


def model_header(model: PatchedModel, arena: int, batch: int) -> str:
    """Return model.h: sizes (``arena`` and ``batch`` in bytes) and quantization of ``model``."""
    digest = hashlib.sha256(model.data).hexdigest()
    is_int8 = model.input.outer.type == "INT8"
    codes = model.input.outer.quantization
    scale, zero_point = (1.0, 0) if codes is None else (codes.scale, codes.zero_point)
    return f"""// Written by tflm-zo {_VERSION}. Export the model again instead of editing this file.
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

// The input: its shape, and, unless it is float, the code of a value: round(value / kInputScale) + kInputZeroPoint.
constexpr uint32_t kInputShape[] = {{{", ".join(map(str, model.input_shape))}}};
constexpr bool kInputIsInt8 = {"true" if is_int8 else "false"};
constexpr float kInputScale = {scale:.8e}f;
constexpr int32_t kInputZeroPoint = {zero_point};

// Classes that a label can name; 0: the labels are vectors, or maps.
constexpr int32_t kClasses = {model.loss.classes if model.loss.counts_right else 0};

// What a board that learns by itself measures its learning rates with (OnDeviceTrainer::Measure, RatesOf): rate times
// kernel of the head, and the nodes that the head gives the gradient of, [first, last).
constexpr float kHeadLimit = {head_limit(model):.8e}f;
constexpr int32_t kFirstExactNode = {model.closed_nodes.start};
constexpr int32_t kLastExactNode = {model.closed_nodes.stop};

#endif  // MODEL_H_
"""


def model_source(data: bytes, parts: SplitModel | None) -> str:
    """Return model.cpp: the bytes of the model, split into ``parts`` (None: as it is)."""
    image = data if parts is None else parts.image
    model = "kImage" if parts is None else f"kImage + {parts.model_offset}"
    frozen = "nullptr" if parts is None else f"kImage + {parts.prefix_offset}"
    lines = [
        f"// Written by tflm-zo {_VERSION}. Export the model again instead of editing this file.",
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


def ops_header(ops: ModelOps) -> str:
    """Return model_ops.h: an op resolver for ``ops``."""
    calls = [f"ops_.{method}() == kTfLiteOk" for method in ops.builtin]
    calls += [f"tflm_zo::AddOp(&ops_, tflm_zo::{op.name}, tflm_zo::{op.registration}())" for op in ops.training]
    body = " &&\n           ".join(calls)
    return f"""// Written by tflm-zo {_VERSION}. Export the model again instead of editing this file.
#ifndef MODEL_OPS_H_
#define MODEL_OPS_H_

{BY_LIBRARY}

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


def library_header(library: TflmLibrary) -> str:
    """Return tflm_library.h, which pulls ``library`` into the sketch."""
    return f"""// Written by tflm-zo {_VERSION}.
//
// The one line that says which TFLM the sketch is built with: {library.name}.
#ifndef TFLM_LIBRARY_H_
#define TFLM_LIBRARY_H_

#include <{library.header}>

#endif  // TFLM_LIBRARY_H_
"""


def readme(name: str, board: Board, library: TflmLibrary, example: str, arena: int) -> str:
    """Return README.md of the sketch ``name``, made of ``example``; ``arena`` in bytes."""
    core = ":".join(board.fqbn.split(":")[:2])
    note = f"\n{library.note}\n" if library.note else ""
    sensor = _EXAMPLE_LIBRARIES.get(example)
    more = "" if sensor is None else f"\n    {sensor}"
    return f"""# {name}: a model that learns on the {board.title}

Written by tflm-zo {_VERSION}. Everything the sketch needs is in this folder, except the board's core and the
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
