# SPDX-License-Identifier: Apache-2.0
"""Small networks as people write them in Keras, trained here on samples that Python packages ship.

* digits (scikit-learn), 16 x 16 pixels: two convolutions, GlobalAveragePooling2D, Dense; inverted residual blocks as
  in MobileNetV2; and as vectors of 64 values: Dense layers only.
* breast cancer (scikit-learn), 30 standardized values: Dense layers only.
* windows of an inertial sensor (see :mod:`suites.inertial`): Conv1D with GlobalAveragePooling1D, Conv1D with Flatten.

Training is seeded; the int8 models are kept in a folder, under a digest of the samples and of this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from suites.cache import digest
from suites.inertial import AXES, FRAMES, load_windows
from suites.predict import input_form
from suites.task import Task
from tflm_zo.conversion.convert import convert
from tflm_zo.conversion.keras_support import import_tensorflow, quiet
from tflm_zo.demo.digits import load_digits
from tflm_zo.files import write_atomic
from tflm_zo.model.quantization import quantize

_BATCH = 32
_SEED = 0


class Samples(NamedTuple):
    """Float samples (n, ...) and class indices: to train the network on before any drift, to adapt, to test."""

    x_train: np.ndarray
    y_train: np.ndarray
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class _Recipe(NamedTuple):
    """``build(layers)`` returns a Keras model; ``zero``: the real value of a silent sensor."""

    kind: str
    samples: Callable[[], Samples]
    build: Callable[[Any], Any]
    epochs: int
    rate: float
    zero: float = 0.0


# -- samples -----------------------------------------------------------------------------------------------------


def _digits() -> Samples:
    """Images of 8 x 8 pixels, each pixel doubled along both axes, 0 to 1."""
    d = load_digits(0)

    def doubled(x: np.ndarray) -> np.ndarray:
        return x.repeat(2, axis=1).repeat(2, axis=2)

    return Samples(doubled(d.x_pretrain), d.y_pretrain, doubled(d.x_adapt), d.y_adapt, doubled(d.x_test), d.y_test)


def _digit_vectors() -> Samples:
    d = load_digits(1)
    parts = [x.reshape(len(x), -1) for x in (d.x_pretrain, d.x_adapt, d.x_test)]
    return Samples(parts[0], d.y_pretrain, parts[1], d.y_adapt, parts[2], d.y_test)


def _cancer() -> Samples:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(_SEED).permutation(len(x))
    train, adapt, test = np.split(order, [149, 349])
    # A user standardizes with what was known before the drift; what is far out would cost the rest its resolution.
    x = np.clip((x - x[train].mean(axis=0)) / x[train].std(axis=0), -4, 4).astype(np.float32)
    y = y.astype(np.int32)
    return Samples(x[train], y[train], x[adapt], y[adapt], x[test], y[test])


def _windows() -> Samples:
    return Samples(*load_windows())


def _windows_of_others() -> Samples:
    return Samples(*load_windows(other_people=True))


# -- networks ----------------------------------------------------------------------------------------------------


def _gap(layers: Any) -> Any:
    return [
        layers.Input((16, 16, 1)),
        layers.Conv2D(8, 3, activation="relu"),
        layers.Conv2D(12, 3, strides=2, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10, activation="softmax"),
    ]


def _dense(inputs: int, classes: int) -> Callable[[Any], Any]:
    def build(layers: Any) -> Any:
        return [
            layers.Input((inputs,)),
            layers.Dense(32, activation="relu"),
            layers.Dense(16, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]

    return build


def _conv1d_gap(layers: Any) -> Any:
    return [
        layers.Input((FRAMES, AXES)),
        layers.Conv1D(16, 9, strides=2, activation="relu"),
        layers.Conv1D(24, 7, strides=2, activation="relu"),
        layers.Conv1D(32, 5, strides=2, activation="relu"),
        layers.GlobalAveragePooling1D(),
        layers.Dense(7, activation="softmax"),
    ]


def _conv1d_flat(layers: Any) -> Any:
    return [
        layers.Input((FRAMES, AXES)),
        layers.Conv1D(12, 9, strides=3, activation="relu"),
        layers.Conv1D(16, 7, strides=2, activation="relu"),
        layers.Flatten(),
        layers.Dense(32, activation="relu"),
        layers.Dense(7, activation="softmax"),
    ]


def _inverted_residuals(layers: Any) -> Any:
    def normalized(x: Any, layer: Any, active: bool = True) -> Any:
        x = layers.BatchNormalization(momentum=0.9)(layer(x))
        return layers.ReLU(6.0)(x) if active else x

    def block(x: Any, expansion: int, channels: int, stride: int) -> Any:
        start, before = x, x.shape[-1]
        x = normalized(x, layers.Conv2D(before * expansion, 1, use_bias=False))
        x = normalized(x, layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False))
        x = normalized(x, layers.Conv2D(channels, 1, use_bias=False), active=False)
        return layers.Add()([start, x]) if stride == 1 and before == channels else x

    start = layers.Input((16, 16, 1))
    x = normalized(start, layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False))
    for channels, stride in ((8, 1), (16, 2), (16, 1)):
        x = block(x, 4, channels, stride)
    x = normalized(x, layers.Conv2D(32, 1, use_bias=False))
    x = layers.GlobalAveragePooling2D()(x)
    return start, layers.Dense(10, activation="softmax")(x)


RECIPES = {
    "gap": _Recipe("image", _digits, _gap, 80, 1e-2),
    "mobilenet": _Recipe("image", _digits, _inverted_residuals, 30, 3e-3),
    "dense digits": _Recipe("vector", _digit_vectors, _dense(64, 10), 60, 3e-3),
    "dense cancer": _Recipe("vector", _cancer, _dense(30, 2), 60, 3e-3),
    "conv1d gap": _Recipe("inertial", _windows, _conv1d_gap, 15, 3e-3),
    "conv1d flat": _Recipe("inertial", _windows, _conv1d_flat, 15, 3e-3),
    "conv1d flat; other people": _Recipe("inertial", _windows_of_others, _conv1d_flat, 15, 3e-3),
}


def load(name: str, folder: Path) -> Task:
    """Return the task of a recipe; its network is trained if ``folder`` does not have it yet."""
    recipe = RECIPES[name]
    samples = recipe.samples()
    key = digest(Path(__file__).read_bytes(), name, samples.x_train, samples.y_train)
    path = folder / f"{re.sub('[^a-z0-9]+', '-', name)}-{key}.tflite"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, convert(_train(recipe, samples), samples.x_train[:: max(1, len(samples.x_train) // 300)]))
    model = path.read_bytes()
    source, _ = input_form(model)
    return Task(
        name=name,
        model=model,
        kind=recipe.kind,
        x=quantize(samples.x, source),
        y=samples.y,
        x_test=quantize(samples.x_test, source),
        y_test=samples.y_test,
        zero=recipe.zero / source.scale + source.zero_point,
    )


def _train(recipe: _Recipe, samples: Samples) -> Any:
    """Adam, its rate falling as half a cosine wave."""
    _, keras = import_tensorflow()
    keras.utils.set_random_seed(_SEED)
    network = recipe.build(keras.layers)
    model = keras.Sequential(network) if isinstance(network, list) else keras.Model(*network)
    steps = recipe.epochs * -(-len(samples.x_train) // _BATCH)
    rate = keras.optimizers.schedules.CosineDecay(recipe.rate, steps)
    model.compile(optimizer=keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy")
    with quiet():
        model.fit(samples.x_train, samples.y_train, batch_size=_BATCH, epochs=recipe.epochs, verbose=0)
    return model
