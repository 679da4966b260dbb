# SPDX-License-Identifier: Apache-2.0
"""Reading and atomic replacing of files, and finding the compiled ones of the package."""

from __future__ import annotations

import importlib.resources
import os
import sys
import tempfile
from pathlib import Path

from tflm_zo.errors import ZoError


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of ``path``; raises :class:`ZoError` if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ZoError(f"cannot read {path}: {error.strerror}") from error


def require_writable(path: str | os.PathLike[str]) -> None:
    """Raise :class:`ZoError` if :func:`write_atomic` could not write ``path``: to be asked before long work."""
    folder = Path(path).parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ZoError(f"cannot write {path}: {folder} is no folder that can be written to")


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace ``path`` by ``data``: afterwards it holds all of the old or all of the new content.

    Raises :class:`ZoError` if the folder is missing or not writable.
    """
    target = Path(path)
    temporary = None
    try:
        # The temporary file is made beside the target: a rename is atomic on one file system only.
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes private files; a result should have the permissions of any other new file.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ZoError(f"cannot write {path}: {error.strerror}") from error


def library_names(stem: str) -> list[str]:
    """Return what the shared library ``stem`` may be called on this system, the likeliest first."""
    # CMake gives a library that is only loaded, never linked, the ending .so on macOS as well.
    endings = {"win32": [".dll"], "darwin": [".so", ".dylib"]}
    return [stem + ending for ending in endings.get(sys.platform, [".so"])]


def compiled_file(stem: str, role: str) -> Path:
    """Return the path of the package's shared library ``stem`` (without its ending).

    Raises :class:`ZoError` naming ``role`` if the package was installed without it.
    """
    names = library_names(stem)
    # An editable install keeps compiled files elsewhere than the sources.
    for folder in (Path(__file__).resolve().parent, Path(str(importlib.resources.files("tflm_zo")))):
        for name in names:
            if (folder / name).exists():
                return folder / name
    raise ZoError(f"{role} ({names[0]}) is missing: install the package with `pip install .`")
