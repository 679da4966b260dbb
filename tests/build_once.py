# SPDX-License-Identifier: Apache-2.0
"""What takes long to make is made once for all processes that the tests run in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BuildOnce = Callable[[str, Callable[[Path], object]], Path]


def builder(factory: pytest.TempPathFactory) -> BuildOnce:
    """Return ``build_once(name, make)``: a folder that ``make(folder)`` has filled, in whichever process was first.

    If ``make`` fails, the next process tries again, and fails by itself.
    """
    own = factory.getbasetemp()
    # pytest-xdist gives each process a folder below the one that all of them share.
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def build_once(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with _locked(root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return build_once


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock; it ends with the process that holds it, however that ends."""
    import fcntl  # which Windows lacks

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
