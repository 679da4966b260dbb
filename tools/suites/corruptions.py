# SPDX-License-Identifier: Apache-2.0
"""Corrupted images, seeded: the PyPI package ``imagecorruptions`` at its highest severity.

The package draws from NumPy's global generator, but for impulse noise, where scikit-image makes a generator of its
own; both are seeded here for each corruption, and the global one is put back. The images then depend on nothing but
the versions of the package, scikit-image, SciPy and OpenCV.
"""

from __future__ import annotations

import functools
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError

SEVERITY = 5
# Of the package's nineteen those that take milliseconds for an image of 32 x 32 pixels and run with today's SciPy.
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)


def corrupted(images: np.ndarray, corruption: str) -> np.ndarray:
    """Return ``images`` uint8 (n, rows, columns, 3) with a corruption of the package, same shape and type.

    Raises :class:`ZoError` if the package is not installed.
    """
    corruptions = _package()
    with _seeded(corruptions, zlib.crc32(corruption.encode())):
        seen = [corruptions.corrupt(image, corruption_name=corruption, severity=SEVERITY) for image in images]
    return np.stack(seen).astype(np.uint8)


def _package() -> Any:
    # The package's last version is older than NumPy 2, which dropped this name.
    if not hasattr(np, "float_"):
        np.float_ = np.float64  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import imagecorruptions
    except ImportError as error:
        raise ZoError(f"the image suite needs more packages ({error}): pip install tflm-zo[bench]") from error
    return imagecorruptions


@contextmanager
def _seeded(package: Any, seed: int) -> Iterator[None]:
    """Seed all the package draws from; afterwards everything is as before."""
    util = package.corruptions.sk.util
    state, random_noise = np.random.get_state(), util.random_noise
    np.random.seed(seed)
    util.random_noise = functools.partial(random_noise, rng=np.random.default_rng(seed))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        util.random_noise = random_noise
        np.random.set_state(state)
