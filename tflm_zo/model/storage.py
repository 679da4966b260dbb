# SPDX-License-Identifier: Apache-2.0
"""Where models lie: in ``.tflite`` files, or in C source as arrays."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tflm_zo.errors import ZoError
from tflm_zo.files import read_bytes, write_atomic
from tflm_zo.model.c_array import MOST_SOURCE_BYTES, SOURCES, is_c_source, read_c_array, write_c_array
from tflm_zo.model.file import FILE_IDENTIFIER


def read_model(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of the model in ``path``: a ``.tflite`` file, or C or C++ source that holds it as an array.

    ``FILE:NAME`` chooses one of several arrays. Raises :class:`ZoError` if the file cannot be read, or is source
    without a model.
    """
    file, name = _split(path)
    if is_c_source(file) and Path(file).is_file() and Path(file).stat().st_size > MOST_SOURCE_BYTES:
        raise ZoError(f"{file}: a model's array is read from at most {MOST_SOURCE_BYTES >> 20} MB of source")
    data = read_bytes(file)
    if not is_c_source(file) or data[4:8] == FILE_IDENTIFIER:
        return data
    try:
        return read_c_array(data, name)
    except ZoError as error:
        sources = [Path(file).with_suffix(ending) for ending in SOURCES]
        beside = next((one for one in sources if one != Path(file) and one.is_file()), None)
        hint = f" ({beside}?)" if beside is not None and "declares" in str(error) else ""
        raise ZoError(f"{file}: {error}{hint}") from error


def write_model(path: str | os.PathLike[str], model: bytes) -> None:
    """Write a model to ``path``, atomically: as C source if its name ends like that (``FILE:NAME`` names the array, by
    default ``g_`` and the file's name), else as it is. Raises :class:`ZoError` if it cannot be written."""
    file, name = _split(path)
    write_atomic(file, write_c_array(model, file, name) if is_c_source(file) else model)


def _split(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The file and the name of the array, if there is one."""
    text = os.fspath(path)
    found = re.fullmatch(r"(.+\.\w+):([A-Za-z_]\w*)", text, re.DOTALL)
    if found and is_c_source(found[1]) and not Path(text).exists():
        return found[1], found[2]
    return text, None
