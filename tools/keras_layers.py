# SPDX-License-Identifier: Apache-2.0
"""Common Keras layers, each in a small model that ends in a dense layer of three classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

CLASSES = 3
# What a layer stands on: an image, a sequence, a vector.
SHAPES = {"image": (8, 8, 4), "sequence": (8, 4), "vector": (12,)}

Build = Callable[[Any, Any], Any]  # Keras and the layer's input: its output


@dataclass(frozen=True)
class Case:
    """A layer as the table calls it, what it stands on, and how it is made."""

    name: str
    on: str
    build: Build


def _layer(kind: str, **options: Any) -> Build:
    return lambda keras, x: getattr(keras.layers, kind)(**options)(x)


def _activation(name: str) -> Build:
    return _layer("Activation", activation=name)


def _binary(kind: str) -> Build:
    """A layer of two inputs: what it stands on, and the positive part of that."""
    return lambda keras, x: getattr(keras.layers, kind)()([x, keras.layers.ReLU()(x)])


def _recurrent(kind: str, **options: Any) -> Build:
    return lambda keras, x: getattr(keras.layers, kind)(5, **options)(x)


def _bidirectional(**options: Any) -> Build:
    return lambda keras, x: keras.layers.Bidirectional(keras.layers.LSTM(4, **options))(x)


def _time_distributed(keras: Any, x: Any) -> Any:
    return keras.layers.TimeDistributed(keras.layers.Dense(5, activation="relu"))(x)


def _normalization(keras: Any, x: Any) -> Any:
    return keras.layers.Normalization(mean=[0.1, 0.2, -0.1, 0.0], variance=[1.0, 0.5, 2.0, 1.5])(x)


def _attention(keras: Any, x: Any) -> Any:
    return keras.layers.Attention()([x, x])


def _multi_head(keras: Any, x: Any) -> Any:
    return keras.layers.MultiHeadAttention(2, 4)(x, x)


CASES = (
    Case("Dense", "vector", _layer("Dense", units=8, activation="relu")),
    Case("Conv1D", "sequence", _layer("Conv1D", filters=5, kernel_size=3, activation="relu")),
    Case("Conv2D", "image", _layer("Conv2D", filters=5, kernel_size=3, activation="relu")),
    Case("Conv2D, groups", "image", _layer("Conv2D", filters=6, kernel_size=3, groups=2)),
    Case("Conv2D, dilation", "image", _layer("Conv2D", filters=5, kernel_size=3, dilation_rate=2)),
    Case("Conv1DTranspose", "sequence", _layer("Conv1DTranspose", filters=5, kernel_size=3, strides=2)),
    Case("Conv2DTranspose", "image", _layer("Conv2DTranspose", filters=5, kernel_size=3, strides=2)),
    Case("SeparableConv1D", "sequence", _layer("SeparableConv1D", filters=5, kernel_size=3)),
    Case("SeparableConv2D", "image", _layer("SeparableConv2D", filters=5, kernel_size=3)),
    Case("DepthwiseConv1D", "sequence", _layer("DepthwiseConv1D", kernel_size=3)),
    Case("DepthwiseConv2D", "image", _layer("DepthwiseConv2D", kernel_size=3)),
    Case("DepthwiseConv2D, multiplier", "image", _layer("DepthwiseConv2D", kernel_size=3, depth_multiplier=2)),
    Case("MaxPooling1D", "sequence", _layer("MaxPooling1D")),
    Case("MaxPooling2D", "image", _layer("MaxPooling2D")),
    Case("AveragePooling1D", "sequence", _layer("AveragePooling1D", pool_size=2)),
    Case("AveragePooling2D", "image", _layer("AveragePooling2D", pool_size=2)),
    Case("GlobalMaxPooling1D", "sequence", _layer("GlobalMaxPooling1D")),
    Case("GlobalMaxPooling2D", "image", _layer("GlobalMaxPooling2D")),
    Case("GlobalAveragePooling1D", "sequence", _layer("GlobalAveragePooling1D")),
    Case("GlobalAveragePooling2D", "image", _layer("GlobalAveragePooling2D")),
    Case("BatchNormalization", "image", _layer("BatchNormalization")),
    Case("LayerNormalization", "sequence", _layer("LayerNormalization")),
    Case("Rescaling", "image", _layer("Rescaling", scale=0.5, offset=-0.25)),
    Case("Normalization", "image", _normalization),
    Case("ReLU", "image", _layer("ReLU")),
    Case("ReLU(max_value=6)", "image", _layer("ReLU", max_value=6.0)),
    Case("LeakyReLU", "image", _layer("LeakyReLU")),
    Case("PReLU", "image", _layer("PReLU", shared_axes=[1, 2])),
    Case("ELU", "image", _layer("ELU")),
    Case("gelu", "image", _activation("gelu")),
    Case("swish", "image", _activation("swish")),
    Case("hard_swish", "image", _activation("hard_swish")),
    Case("hard_sigmoid", "image", _activation("hard_sigmoid")),
    Case("sigmoid", "image", _activation("sigmoid")),
    Case("tanh", "image", _activation("tanh")),
    Case("Softmax", "sequence", _layer("Softmax")),
    Case("Add", "image", _binary("Add")),
    Case("Subtract", "image", _binary("Subtract")),
    Case("Multiply", "image", _binary("Multiply")),
    Case("Maximum", "image", _binary("Maximum")),
    Case("Concatenate", "image", _binary("Concatenate")),
    Case("ZeroPadding2D", "image", _layer("ZeroPadding2D")),
    Case("Cropping1D", "sequence", _layer("Cropping1D")),
    Case("Cropping2D", "image", _layer("Cropping2D")),
    Case("UpSampling1D", "sequence", _layer("UpSampling1D")),
    Case("UpSampling2D", "image", _layer("UpSampling2D")),
    Case("UpSampling2D, bilinear", "image", _layer("UpSampling2D", interpolation="bilinear")),
    Case("Reshape", "image", _layer("Reshape", target_shape=(16, 16))),
    Case("Permute", "image", _layer("Permute", dims=(3, 1, 2))),
    Case("Dropout", "image", _layer("Dropout", rate=0.5)),
    Case("LSTM, unroll=True", "sequence", _recurrent("LSTM", unroll=True)),
    Case("LSTM", "sequence", _recurrent("LSTM")),
    Case("GRU, reset_after=False", "sequence", _recurrent("GRU", reset_after=False)),
    Case("GRU", "sequence", _recurrent("GRU")),
    Case("SimpleRNN", "sequence", _recurrent("SimpleRNN")),
    Case("Bidirectional", "sequence", _bidirectional()),
    Case("Bidirectional, return_sequences=True", "sequence", _bidirectional(return_sequences=True)),
    Case("TimeDistributed", "sequence", _time_distributed),
    Case("Attention", "sequence", _attention),
    Case("MultiHeadAttention", "sequence", _multi_head),
)


def keras_model(keras: Any, case: Case) -> Any:
    """Return an untrained model with the layer of ``case``, the same at every call."""
    keras.utils.set_random_seed(7)
    inputs = keras.Input(SHAPES[case.on])
    x = case.build(keras, inputs)
    x = keras.layers.Flatten()(x) if len(x.shape) > 2 else x
    return keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(x), name="model")


def samples(case: Case, count: int = 24) -> np.ndarray:
    """Return float32 samples (count, ...) for the model of ``case``."""
    return np.random.default_rng(7).normal(0.0, 1.0, (count, *SHAPES[case.on])).astype(np.float32)
