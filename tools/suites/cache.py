# SPDX-License-Identifier: Apache-2.0
"""Results on disk, one file each, so that a benchmark that was stopped goes on where it was."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tflm_zo
from tflm_zo.files import write_atomic


def digest(*parts: Any) -> str:
    """Hex digest of arrays (values and shape), bytes, and whatever else ``repr`` tells apart."""
    sha = hashlib.sha256()
    for part in parts:
        data = part
        if isinstance(part, np.ndarray):
            data = repr((part.shape, part.dtype.str)).encode() + np.ascontiguousarray(part).tobytes()
        elif not isinstance(part, bytes):
            data = repr(part).encode()
        sha.update(len(data).to_bytes(8, "little") + data)
    return sha.hexdigest()[:24]


@functools.lru_cache(maxsize=1)
def package_digest() -> str:
    """Digest of what trains: the installed package's modules and libraries."""
    folder = Path(tflm_zo.__file__).parent
    files = [*folder.rglob("*.py"), *folder.glob("*.so")]
    return digest(*[part for path in sorted(files) for part in (str(path.relative_to(folder)), path.read_bytes())])


class Cache:
    """A folder of JSON files; ``None`` as folder keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: str, about: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what was kept under ``key``, or make and keep it; ``about`` tells a reader what it is."""
        if self.folder is None:
            return make()
        path = self.folder / f"{key}.json"
        if path.exists():
            return dict(json.loads(path.read_text())["result"])
        result = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({"about": about, "result": result}, indent=1).encode())
        return result
