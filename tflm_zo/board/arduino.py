# SPDX-License-Identifier: Apache-2.0
"""Arduino sketches and the Arduino library: folders that the Arduino IDE and ``arduino-cli`` build as they are."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from tflm_zo.board.boards import find_board
from tflm_zo.board.library_model import library_model
from tflm_zo.board.memory import DEFAULT_BATCH, arena_size, batch_bytes
from tflm_zo.board.memory_plan import plan_memory
from tflm_zo.board.model_ops import model_ops
from tflm_zo.board.sketch_files import (
    BY_LIBRARY,
    BY_SKETCH,
    library_header,
    model_header,
    model_source,
    ops_header,
    readme,
)
from tflm_zo.board.sources import device_folder, device_sources
from tflm_zo.board.tflm_libraries import find_library
from tflm_zo.errors import ZoError
from tflm_zo.files import write_atomic
from tflm_zo.model.file import load_model
from tflm_zo.patching.frozen_prefix import split
from tflm_zo.patching.patched_model import read_patched

# Arduino builds everything under src/, of a sketch as of a library; the header's includes name the folder beside it.
_HEADER = "src/TflmZo.h"
_SOURCES = "src/tflm_zo"
DEFAULT_EXAMPLE = "Learner"


@dataclass(frozen=True)
class Export:
    """What an export wrote, and the sizes in it (bytes); ``replaced``: tensors that other layers compute in the
    library than in the model that was given (:func:`tflm_zo.board.library_model.library_model`)."""

    files: tuple[str, ...]
    model_bytes: int
    arena_bytes: int
    batch_bytes: int
    ops: tuple[str, ...]
    replaced: tuple[str, ...]


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
    force: bool = False,
) -> Export:
    """Write a sketch that runs and trains the patched ``model`` into ``folder`` (made if it is missing).

    The folder's name becomes the sketch's; the IDE opens it, ``arduino-cli`` compiles it, with nothing to install
    but the board's core and the TFLM library. Files of an earlier export are replaced, others left alone.
    batch_size: the most samples that a training step may have on the board. example: the program, one of
    :func:`example_names`. force: also if the plan says that the model does not fit the board.

    Layers that the library's kernels would compute otherwise than the host are replaced by equal ones.

    Raises :class:`ZoError` if the model is not patched, has an op that the library lacks or would compute otherwise
    than the host, does not fit the board, or the folder's name is none for a sketch.
    """
    target = Path(folder)
    name = target.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name):
        raise ZoError(
            f"{name!r} cannot be the name of a sketch: use up to 63 letters, digits, _, . and -, a letter or digit "
            "first"
        )
    device, library = find_board(board), find_library(tflm_library)
    model_files, export = _model_files(model, tflm_library, batch_size)
    if not force:
        _require_room(model, board, tflm_library, batch_size)
    program = _example(example)
    files = {f"{_SOURCES}/{path}": data for path, data in device_sources().items()}
    files[_HEADER] = (device_folder("micro_app") / _HEADER).read_bytes()
    for path, data in (program | model_files).items():
        renamed = f"{name}.ino" if path == f"{example}.ino" else path
        files[renamed] = data.replace(BY_LIBRARY.encode(), BY_SKETCH.encode())
    files["README.md"] = readme(name, device, library, example, export.arena_bytes).encode()
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
    files["library.properties"] = files["library.properties"].replace(b"@version@", version("tflm-zo").encode())
    if model is not None:
        model_files, _ = _model_files(model, tflm_library, batch_size)
        for example in example_names():
            files |= {f"examples/{example}/{p}": data for p, data in (_example(example) | model_files).items()}
    _write(Path(folder), files)
    return tuple(sorted(files))


def _require_room(model: bytes, board: str, tflm_library: str, batch_size: int) -> None:
    plan = plan_memory(model, board, tflm_library=tflm_library, batch_size=batch_size)
    if not plan.fits:
        raise ZoError(
            f"it does not fit: RAM {plan.ram_used} of {plan.board.ram} bytes, flash {plan.flash_used} of "
            f"{plan.board.flash}. {plan.advice} (`tflm-zo plan` shows what takes them; --force exports anyway)"
        )


def _example(name: str) -> dict[str, bytes]:
    if name not in example_names():
        raise ZoError(f"unknown example {name!r}: choose one of {', '.join(example_names())}")
    folder = device_folder("micro_app") / "examples" / name
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def _model_files(model: bytes, tflm_library: str, batch_size: int) -> tuple[dict[str, bytes], Export]:
    """The files that are written for one model, and their sizes."""
    if not 1 <= batch_size <= 4096:
        raise ZoError(f"batch_size is {batch_size}: it must be from 1 to 4096")
    read_patched(model)  # refuses what is not patched, before anything else is said of it
    library = find_library(tflm_library)
    model_ops(load_model(model), library.recent)  # an operator that it lacks is of more interest than its kernels
    converted = library_model(model, tflm_library)
    patched = read_patched(converted.data)
    parts = split(patched.data)
    ops = model_ops(load_model(patched.data), library.recent)
    arena = arena_size(patched.data, parts, library.recent)
    batch = batch_bytes(patched, parts, batch_size)
    files = {
        "model.h": model_header(patched, arena, batch).encode(),
        "model.cpp": model_source(patched.data, parts).encode(),
        "model_ops.h": ops_header(ops).encode(),
        "tflm_library.h": library_header(library).encode(),
    }
    names = (*ops.builtin, *(op.registration for op in ops.training))
    return files, Export(tuple(sorted(files)), len(patched.data), arena, batch, names, converted.replaced)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ZoError(f"cannot make {path.parent}: {error.strerror}") from error
        write_atomic(path, data)
