# SPDX-License-Identifier: Apache-2.0
"""Float back-propagation through all layers of an int8 model: the yardstick of the accuracy benchmarks.

The network is rebuilt in TensorFlow from the dequantized weights of the ``.tflite``, without rounding of
activations, so it starts where the int8 model starts. Optimizer, learning rate and epochs are chosen by
cross-validation on the adaptation samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.keras_support import import_tensorflow, quiet
from tflm_zo.simulator import Geometry, SimLayer, SimModel

BATCH = 32
FOLDS = 3


@dataclass(frozen=True)
class Setting:
    """Adam, or SGD with momentum 0.9 and gradients clipped to norm 1; the rate decays linearly to zero."""

    optimizer: str
    rate: float
    epochs: int

    def __str__(self) -> str:
        return f"{self.optimizer} {self.rate:g}, {self.epochs} epochs"


GRID = (
    Setting("Adam", 3e-4, 50),
    Setting("Adam", 1e-3, 20),
    Setting("Adam", 1e-3, 50),
    Setting("Adam", 3e-3, 20),
    Setting("SGD", 3e-3, 20),
    Setting("SGD", 1e-2, 20),
)


class FloatNetwork:
    """The float network of an int8 classifier; logits, before a closing softmax.

    Raises :class:`ZoError` for operators that the simulator does not know.
    """

    def __init__(self, model: bytes) -> None:
        self.tf, _ = import_tensorflow()
        self._model = SimModel(model)
        self._layers = [layer for layer in self._model.layers if layer.op != "SOFTMAX"]
        self._initial: list[np.ndarray] = []
        self.variables: list[Any] = []
        self._of_layer: dict[int, tuple[Any, Any]] = {}
        for layer in self._layers:
            if layer.weights is not None:
                self._of_layer[layer.index] = (self._weights(layer), self._bias(layer))
        tf = self.tf

        # A whole epoch in one call: small steps are otherwise mostly the overhead of calling.
        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def epoch(x: Any, y: Any, batches: Any, rates: Any, clip: Any) -> None:
            def body(index: Any) -> tuple[Any]:
                rows = batches[index]
                with tf.GradientTape() as tape:
                    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                        tf.gather(y, rows), self.logits(tf.gather(x, rows))
                    )
                    loss = tf.reduce_mean(losses)
                gradients = tape.gradient(loss, self.variables)
                norm = tf.linalg.global_norm(gradients)
                scale = tf.minimum(1.0, clip / tf.maximum(norm, 1e-12))
                self._step([g * scale for g in gradients], rates[index])
                return (index + 1,)

            tf.while_loop(lambda index: index < tf.shape(batches)[0], body, (tf.constant(0),))

        self._epoch = epoch
        self._first = [tf.Variable(tf.zeros_like(v)) for v in self.variables]
        self._second = [tf.Variable(tf.zeros_like(v)) for v in self.variables]
        self._count = tf.Variable(0.0)
        self._adam = tf.Variable(False)

    def _step(self, gradients: list[Any], rate: Any) -> None:
        """One step of Adam (Kingma & Ba, 2015, beta 0.9 and 0.999) or of SGD with momentum 0.9."""
        tf = self.tf
        self._count.assign_add(1.0)
        adam = tf.cast(self._adam, tf.float32)
        size = rate * tf.sqrt(1 - 0.999**self._count) / (1 - 0.9**self._count)
        for variable, first, second, gradient in zip(self.variables, self._first, self._second, gradients, strict=True):
            first.assign(0.9 * first + (1.0 - 0.9 * adam) * gradient)
            second.assign(0.999 * second + 0.001 * gradient * gradient)
            variable.assign_sub(adam * size * first / (tf.sqrt(second) + 1e-7) + (1.0 - adam) * rate * first)

    def reals(self, codes: np.ndarray) -> np.ndarray:
        """Input codes (int8) as the float values they stand for."""
        tensor = self._model.tensors[self._model.inputs[0]]
        return (codes.astype(np.float32) - tensor.zero_point) * tensor.scale

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> float:
        """Part of the samples (input codes, class indices) that the network puts in their class."""
        with quiet():
            logits = np.concatenate(
                [self.logits(self.tf.constant(self.reals(x[i : i + 100]))).numpy() for i in range(0, len(x), 100)]
            )
        return float(np.mean(logits.argmax(axis=1) == y))

    def train(self, x: np.ndarray, y: np.ndarray, setting: Setting, seed: int) -> None:
        """Train on input codes and class indices, from the int8 model's weights."""
        for variable, value in zip(self.variables, self._initial, strict=True):
            variable.assign(value)
        for moment in (*self._first, *self._second, self._count):
            moment.assign(self.tf.zeros_like(moment))
        self._adam.assign(setting.optimizer == "Adam")
        rng = np.random.default_rng(seed)
        batch = min(BATCH, len(x))
        steps = len(x) // batch
        rates = setting.rate * (1 - np.arange(setting.epochs * steps) / (setting.epochs * steps))
        clip = 1.0 if setting.optimizer == "SGD" else np.inf
        inputs = self.tf.constant(self.reals(x))
        labels = self.tf.constant(y.astype(np.int32))
        with quiet():
            for number in range(setting.epochs):
                order = rng.permutation(len(x))[: steps * batch].reshape(steps, batch)
                part = rates[number * steps : (number + 1) * steps]
                self._epoch(
                    inputs,
                    labels,
                    self.tf.constant(order.astype(np.int32)),
                    self.tf.constant(part.astype(np.float32)),
                    self.tf.constant(np.float32(clip)),
                )

    def logits(self, x: Any) -> Any:
        """The network as a TensorFlow function of real inputs."""
        values = {self._model.inputs[0]: x}
        for layer in self._layers:
            values[layer.output] = self._apply(layer, [values[i] for i in layer.inputs])
        last = values[self._layers[-1].output]
        return self.tf.reshape(last, [self.tf.shape(x)[0], -1])

    def _variable(self, value: np.ndarray) -> Any:
        self._initial.append(value.astype(np.float32))
        self.variables.append(self.tf.Variable(self._initial[-1]))
        return self.variables[-1]

    def _weights(self, layer: SimLayer) -> Any:
        """Real weights in TensorFlow's layout: [height, width, in, out], depthwise [height, width, in, multiplier]."""
        assert layer.weights is not None and layer.weight_scales is not None and layer.geometry is not None
        weights, scales = layer.weights.astype(np.float64), layer.weight_scales.astype(np.float64)
        if layer.op == "DEPTHWISE_CONV_2D":
            channels = layer.geometry.channels
            return self._variable((weights * scales)[0].reshape(*weights.shape[1:3], channels, -1))
        if layer.op == "FULLY_CONNECTED":
            return self._variable((weights.T * scales).astype(np.float32))
        return self._variable(weights.transpose(1, 2, 3, 0) * scales)

    def _bias(self, layer: SimLayer) -> Any:
        if layer.bias is None:
            return None
        assert layer.weight_scales is not None
        scale = float(self._model.tensors[layer.inputs[0]].scale)
        return self._variable(layer.bias * (scale * layer.weight_scales.astype(np.float64)))

    def _apply(self, layer: SimLayer, inputs: list[Any]) -> Any:
        tf, x = self.tf, inputs[0]
        if layer.op == "RESHAPE":
            return tf.reshape(x, [tf.shape(x)[0], *self._model.tensors[layer.output].sample_shape])
        if layer.op == "ADD":
            return self._activate(layer, inputs[0] + inputs[1])
        geometry = layer.geometry
        assert geometry is not None
        if layer.op == "AVERAGE_POOL_2D" and not (geometry.pad_top or geometry.pad_left):
            size = (geometry.kernel_height, geometry.kernel_width)
            stride = (geometry.stride_height, geometry.stride_width)
            return self._activate(layer, tf.nn.avg_pool2d(x, size, stride, "VALID"))
        if layer.index not in self._of_layer:
            raise ZoError(f"operator {layer.index} ({layer.op}) has no float form here")
        weights, bias = self._of_layer[layer.index]
        if layer.op == "FULLY_CONNECTED":
            y = tf.linalg.matmul(tf.reshape(x, [tf.shape(x)[0], -1]), weights)
        else:
            x = tf.pad(x, _padding(geometry))
            stride = (geometry.stride_height, geometry.stride_width)
            dilation = (geometry.dilation_height, geometry.dilation_width)
            if layer.op == "DEPTHWISE_CONV_2D":
                y = tf.nn.depthwise_conv2d(x, weights, (1, *stride, 1), "VALID", dilations=dilation)
            else:
                y = tf.nn.conv2d(x, weights, stride, "VALID", dilations=dilation)
        return self._activate(layer, y if bias is None else y + bias)

    def _activate(self, layer: SimLayer, y: Any) -> Any:
        name = layer.options.get("fusedActivationFunction", "NONE")
        if name == "RELU":
            return self.tf.nn.relu(y)
        if name == "RELU6":
            return self.tf.nn.relu6(y)
        if name != "NONE":
            raise ZoError(f"operator {layer.index} ({layer.op}) has activation {name}, which has no float form here")
        return y


def _padding(geometry: Geometry) -> list[list[int]]:
    def side(size: int, out: int, kernel: int, stride: int, dilation: int, before: int) -> list[int]:
        reach = (out - 1) * stride + (kernel - 1) * dilation + 1
        return [before, max(reach - size - before, 0)]

    g = geometry
    rows = side(g.input_height, g.output_height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top)
    columns = side(g.input_width, g.output_width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left)
    return [[0, 0], rows, columns, [0, 0]]


def choose(network: FloatNetwork, x: np.ndarray, y: np.ndarray, grid: tuple[Setting, ...] = GRID) -> Setting:
    """Return the setting of the best mean accuracy on held-out thirds of the samples."""
    folds = np.array_split(np.random.default_rng(0).permutation(len(x)), FOLDS)
    scores = {}
    for setting in grid:
        parts = []
        for fold in folds:
            rest = np.setdiff1d(np.arange(len(x)), fold)
            network.train(x[rest], y[rest], setting, seed=0)
            parts.append(network.accuracy(x[fold], y[fold]))
        scores[setting] = float(np.mean(parts))
    return max(scores, key=lambda setting: scores[setting])
