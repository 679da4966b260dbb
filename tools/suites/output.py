# SPDX-License-Identifier: Apache-2.0
"""Where a benchmark's table goes."""

from __future__ import annotations

from pathlib import Path

from tflm_zo.files import write_atomic


def emit(text: str, path: Path | None) -> None:
    """Write ``text`` to the file ``path``, atomically, or to standard output."""
    if path is None:
        print(text)
    else:
        write_atomic(path, text.encode())
