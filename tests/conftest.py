# SPDX-License-Identifier: Apache-2.0
"""Fixtures: the shared data, a small model, running Python programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import small_models
from build_once import BuildOnce, builder
from hypothesis import settings

# One thread a process: the machine may be shared, and the arithmetic is small.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("default", deadline=None, database=None)
settings.load_profile("default")


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> BuildOnce:
    """See tests/build_once.py."""
    return builder(tmp_path_factory)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and samples, which is not part of the project."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data: {folder} is not there")
    return folder


@pytest.fixture(scope="session")
def small() -> bytes:
    """The built-in model: int8, convolution, depthwise convolution, pooling, fully connected, softmax."""
    return small_models.small_model()
