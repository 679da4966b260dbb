# SPDX-License-Identifier: Apache-2.0
"""Corrupted images of the strengths that CIFAR-10-C has at severity 5.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019,
say how images of 32 x 32 pixels are corrupted; these are implementations of their descriptions for eight of the
corruptions, seeded, so that images depend on nothing but NumPy and SciPy.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from scipy import ndimage

_Corruption = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _gaussian_noise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x + rng.normal(0, 0.1, x.shape)


def _shot_noise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(x * 50) / 50


def _impulse_noise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    hit, white = rng.random(x.shape) < 0.27, rng.random(x.shape) < 0.5
    return np.where(hit, white.astype(x.dtype), x)


def _speckle_noise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x + x * rng.normal(0, 0.35, x.shape)


def _defocus_blur(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    side = np.arange(-3, 4)
    disk = (side[:, None] ** 2 + side[None, :] ** 2 <= 1.5**2).astype(np.float64)
    kernel = ndimage.gaussian_filter(disk, 0.1)
    return ndimage.convolve(x, (kernel / kernel.sum())[None, :, :, None], mode="mirror")


def _zoom_blur(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean of the image and of its middle enlarged, by up to a quarter."""
    factors = np.arange(1.0, 1.26, 0.01)
    total = x.copy()
    for factor in factors:
        middle = (np.array(x.shape[1:3]) - 1) / 2
        grid = [(np.arange(n) - m) / factor + m for n, m in zip(x.shape[1:3], middle, strict=True)]
        total += _at(x, grid[0], grid[1])
    return total / (len(factors) + 1)


def _at(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear interpolation of images at rows and columns."""

    def along(values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
        low = np.clip(np.floor(places).astype(int), 0, values.shape[axis] - 2)
        part = (places - low).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        return (1 - part) * np.take(values, low, axis) + part * np.take(values, low + 1, axis)

    return along(along(x, rows, 1), columns, 2)


def _fog(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A plasma fractal over the image, whose brightest point keeps its brightness."""
    strength, decay = 1.5, 1.75
    clouds = np.stack([_plasma(x.shape[1], decay, rng) for _ in x])[..., None]
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    return (x + strength * clouds) * brightest / (brightest + strength)


def _plasma(side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of all scales, the wider the stronger, from 0 to 1 (side, side)."""
    total, size, weight = np.zeros((side, side)), 2, 1.0
    while size <= side:
        coarse = rng.uniform(-1, 1, (size + 1, size + 1))
        places = np.linspace(0, size, side, endpoint=False)
        total += weight * _at(coarse[None, :, :, None], places, places)[0, :, :, 0]
        size, weight = 2 * size, weight / decay
    total -= total.min()
    return total / total.max()


def _brightness(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """More value in the sense of hue, saturation and value."""
    value = x.max(axis=3, keepdims=True)
    return x * np.where(value > 0, np.clip(value + 0.3, 0, 1) / np.maximum(value, 1e-9), 1.0)


CORRUPTIONS: dict[str, _Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "speckle_noise": _speckle_noise,
    "defocus_blur": _defocus_blur,
    "zoom_blur": _zoom_blur,
    "fog": _fog,
    "brightness": _brightness,
}


def corrupted(images: np.ndarray, corruption: str) -> np.ndarray:
    """Return ``images`` uint8 (n, 32, 32, 3) with a corruption, same shape and type; the same for the same images."""
    rng = np.random.default_rng(zlib.crc32(corruption.encode()))
    seen = CORRUPTIONS[corruption](images.astype(np.float64) / 255, rng)
    return np.asarray(np.rint(np.clip(seen, 0, 1) * 255).astype(np.uint8))
