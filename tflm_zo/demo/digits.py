# SPDX-License-Identifier: Apache-2.0
"""The digits demo's material: images, a small network, and a drift that makes it fail.

The images are scikit-learn's ``load_digits``: 1797 handwritten digits of 8 by 8 pixels, from the
Optical Recognition of Handwritten Digits set of the UCI repository. All functions are seeded: the
same arguments give the same result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tflm_zo.conversion.keras_support import import_tensorflow, quiet
from tflm_zo.errors import ZoError

CLASSES = 10
IMAGE_SHAPE = (8, 8, 1)
PRETRAIN_SAMPLES = 800
ADAPT_SAMPLES = 500

# A lens that got dirty and a mount that slipped: weaker contrast over a lifted black level, the
# image one pixel to the side, and sensor noise. In units of full brightness.
_DRIFT_CONTRAST = 0.5
_DRIFT_BLACK_LEVEL = 0.25
_DRIFT_SHIFT_PIXELS = 1
_DRIFT_NOISE = 0.1

_EPOCHS = 40
_BATCH = 32
_LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Digits:
    """Three disjoint sets: images float32 ``(n, 8, 8, 1)`` in 0 to 1, labels int32 ``(n,)``."""

    x_pretrain: NDArray[np.float32]
    y_pretrain: NDArray[np.int32]
    x_adapt: NDArray[np.float32]
    y_adapt: NDArray[np.int32]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int32]


def load_digits(seed: int = 0) -> Digits:
    """Return 800 images to pretrain on, 500 to adapt on and 497 to test on, all without drift.

    Raises:
        ZoError: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ZoError("the demo needs scikit-learn: pip install tflm-zo[demo]") from error
    bunch = load()
    # Pixels are counts of 0 to 16.
    images = (bunch.images / 16.0).astype(np.float32).reshape(-1, *IMAGE_SHAPE)
    labels = bunch.target.astype(np.int32)
    order = np.random.default_rng(seed).permutation(len(labels))
    pretrain, adapt, test = np.split(order, [PRETRAIN_SAMPLES, PRETRAIN_SAMPLES + ADAPT_SAMPLES])
    return Digits(images[pretrain], labels[pretrain], images[adapt], labels[adapt], images[test], labels[test])


def drift(x: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Return images ``x`` ``(n, 8, 8, 1)`` as the drifted camera sees them, float32 in 0 to 1.

    Contrast, then shift (the background moves in at the left), then Gaussian noise drawn from
    ``seed``; clipped to 0 to 1. Use different seeds for different sets: noise does not repeat.
    """
    if x.ndim != 4:
        raise ZoError(f"x has shape {x.shape}: images (n, rows, columns, channels) are needed")
    seen = _DRIFT_BLACK_LEVEL + _DRIFT_CONTRAST * x
    shifted = np.full_like(seen, _DRIFT_BLACK_LEVEL)
    shifted[:, :, _DRIFT_SHIFT_PIXELS:] = seen[:, :, :-_DRIFT_SHIFT_PIXELS]
    noise = np.random.default_rng(seed).normal(0.0, _DRIFT_NOISE, size=x.shape)
    return np.clip(shifted + noise, 0.0, 1.0).astype(np.float32)


def build_model(seed: int = 0) -> Any:
    """Return the untrained Keras CNN: two convolutions and a dense layer with softmax."""
    _, keras = import_tensorflow()
    layers = keras.layers

    def start(offset: int) -> Any:
        return keras.initializers.HeNormal(seed=seed + offset)

    return keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE, name="image"),
            layers.Conv2D(8, 3, activation="relu", kernel_initializer=start(1), name="conv1"),
            layers.Conv2D(
                16,
                3,
                strides=2,
                padding="same",
                activation="relu",
                kernel_initializer=start(2),
                name="conv2",
            ),
            layers.Flatten(name="flatten"),
            layers.Dense(CLASSES, activation="softmax", kernel_initializer=start(3), name="head"),
        ],
        name="digits",
    )


def train_model(digits: Digits, seed: int = 0) -> Any:
    """Return the Keras CNN trained on the pretraining set (Adam, 40 epochs, falling step size)."""
    _, keras = import_tensorflow()
    model = build_model(seed)
    steps = _EPOCHS * (len(digits.x_pretrain) // _BATCH)
    rng = np.random.default_rng(seed)
    # All epochs in one, shuffled here: Keras shuffles by global state, which is not repeatable.
    order = np.concatenate([rng.permutation(len(digits.x_pretrain)) for _ in range(_EPOCHS)])
    order = order[: steps * _BATCH]
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)),
        loss="sparse_categorical_crossentropy",
    )
    with quiet():
        model.fit(
            digits.x_pretrain[order],
            digits.y_pretrain[order],
            batch_size=_BATCH,
            epochs=1,
            shuffle=False,
            verbose=0,
        )
    return model
