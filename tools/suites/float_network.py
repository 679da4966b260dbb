# SPDX-License-Identifier: Apache-2.0
"""The network of an int8 model in TensorFlow, for the back-propagation that the benchmarks compare with.

Rebuilt from the dequantized weights of the ``.tflite``; it starts where the int8 model starts. All of its weights and
biases are trained, those of batch normalisation too as far as conversion folded them into its layers.

Two forms, both with activations that saturate where those of the int8 model do: float, without rounding anywhere; and
int8, with weights on the grid of their codes and activations rounded (see :meth:`Network.train`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.conversion.keras_support import import_tensorflow, quiet
from tflm_zo.demo.float_training import FloatTraining, Optimizer
from tflm_zo.errors import ZoError
from tflm_zo.model.activation import LIMITS
from tflm_zo.model.quantization import dequantize
from tflm_zo.model.window import Geometry, trailing_padding
from tflm_zo.simulator.model import SimModel
from tflm_zo.simulator.sim_layer import SimLayer

BATCH = 32
# Number of samples whose outputs are computed in one call.
_EVALUATE = 100


@dataclass(frozen=True)
class Setting:
    """How a network is trained; the rate decays linearly to zero.

    Adam, SGD with momentum 0.9, or "QAS": SGD without momentum in int8. But for Adam gradients are clipped to norm 1.
    unit_inputs: the network is fed codes / 128 instead of real values, its first layer multiplied by as much, so that
    it computes the same. Real values may be 0 to 255, and with them the first layer's gradients are large, its weights
    small: other layers then learn too slowly or it too fast.
    """

    optimizer: str
    rate: float
    epochs: int
    unit_inputs: bool = False

    def __str__(self) -> str:
        inputs = ", inputs / 128 codes" if self.unit_inputs else ""
        return f"{self.optimizer} {self.rate:g}, {self.epochs} epochs{inputs}"


class _RoundedSteps(Optimizer):
    """Steps of plain SGD, rounded up or down at random to the grids of the variables' codes.

    ``grids``: for each variable a function that returns the real value of one of its codes.
    """

    def __init__(self, variables: Sequence[Any], speeds: Sequence[float], grids: Sequence[Callable[[], Any]]) -> None:
        super().__init__(variables, speeds)
        self._grids = grids

    def move(self, i: int, gradient: Any, rate: Any, adam: Any, size: Any) -> None:
        tf, variable, grid = self.tf, self.variables[i], self._grids[i]
        codes = (variable - rate * self.speeds[i] * gradient) / grid()
        codes = tf.floor(codes + tf.random.uniform(tf.shape(codes)))
        limit = 127.0 if len(variable.shape) > 1 else float(2**30)
        variable.assign(tf.clip_by_value(codes, -limit, limit) * grid())


class Network:
    """The network of an int8 model (``.tflite`` bytes), ``loss`` "cross-entropy" (logits, before a closing softmax;
    labels are class indices) or "mse" (labels are vectors of real outputs).

    int8: round activations and keep weights on their codes' grid. adapter: the first layer is an input adapter, whose
    few gains are near one; it learns at ten times the rate. trained_from: index of the first layer (as the simulator
    counts them) that is trained. Raises :class:`ZoError` for operators without a form here.
    """

    def __init__(
        self,
        model: bytes,
        loss: str = "cross-entropy",
        *,
        int8: bool = False,
        adapter: bool = False,
        trained_from: int = 0,
    ) -> None:
        self.tf, _ = import_tensorflow()
        self._model = SimModel(model)
        self._classes, self._int8, self._adapter = loss == "cross-entropy", int8, adapter
        self._layers = [layer for layer in self._model.layers if layer.op != "SOFTMAX"]
        self._initial: list[np.ndarray] = []
        self._grids: list[np.ndarray] = []  # the real value of one code of each variable
        self._speeds: list[float] = []
        self.variables: list[Any] = []
        self._of_layer: dict[int, tuple[int, int | None]] = {}  # by layer: numbers of its weights and bias
        self._trained: list[int] = []
        for layer in self._layers:
            if layer.weights is not None:
                known = len(self.variables)
                self._add_variables(layer)
                if layer.index >= trained_from:
                    self._trained += range(known, len(self.variables))
        self._unit = self.tf.Variable(1.0)  # real input of one unit of what the network is fed
        trained, speeds = [self.variables[i] for i in self._trained], [self._speeds[i] for i in self._trained]
        self._optimizer = Optimizer(trained, speeds)
        if int8:
            self._optimizer = _RoundedSteps(trained, speeds, [functools.partial(self._grid, i) for i in self._trained])
        sample = self._model.tensors[self._model.inputs[0]].sample_shape
        label = self.tf.TensorSpec([None], self.tf.int32)
        if not self._classes:
            label = self.tf.TensorSpec([None, None], self.tf.float32)
        self._training = FloatTraining(self.outputs, self._loss, self._optimizer, sample=sample, label=label)

    # -- training ------------------------------------------------------------------------------------------

    def train(self, x: np.ndarray, y: np.ndarray, setting: Setting, seed: int) -> None:
        """Train on input codes and labels, from the int8 model's weights.

        In int8 form each step moves a weight by rate * dL/dw in real units and rounds it, up or down at random, to
        the grid of its codes. That is SGD with quantization-aware scaling (Lin et al., "On-device training under
        256KB memory", NeurIPS 2022), where the gradient of the codes, s_w dL/dw, is divided by s_w^2. Gradients are
        float; they pass the rounding of activations unchanged, clipped ones not at all.
        """
        self._restart(setting.unit_inputs)
        adam = setting.optimizer == "Adam"
        self._optimizer.restart(adam)
        self.tf.random.set_seed(seed)
        self._training.train(
            self.reals(x),
            y,
            setting.rate,
            falling=True,
            epochs=setting.epochs,
            batch=BATCH,
            seed=seed,
            clip=np.inf if adam else 1.0,
        )

    def _loss(self, y: Any, outputs: Any) -> Any:
        tf = self.tf
        if self._classes:
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs))
        return tf.reduce_mean(tf.square(outputs - y))

    # -- measuring -----------------------------------------------------------------------------------------

    def score(self, x: np.ndarray, y: np.ndarray) -> float:
        """Part of the samples (input codes, class indices) put in their class, or the mean squared error."""
        with quiet():
            parts = [x[i : i + _EVALUATE] for i in range(0, len(x), _EVALUATE)]
            outputs = np.concatenate([self.outputs(self.tf.constant(self.reals(part))).numpy() for part in parts])
        if self._classes:
            return float(np.mean(outputs.argmax(axis=1) == y))
        return float(np.mean(np.square(outputs - y)))

    # -- the network ---------------------------------------------------------------------------------------

    def reals(self, codes: np.ndarray) -> np.ndarray:
        """Input codes (int8) as the network is fed them."""
        quantization = self._model.tensors[self._model.inputs[0]].quantization
        assert quantization is not None  # else the simulator would not run the model
        return np.asarray(dequantize(codes, quantization) / self._unit.numpy())

    def outputs(self, x: Any) -> Any:
        """The network as a TensorFlow function of what :meth:`reals` returns; outputs (n, units)."""
        values = {self._model.inputs[0]: x}
        for layer in self._layers:
            values[layer.output] = self._apply(layer, [values[i] for i in layer.inputs])
        last = values[self._layers[-1].output]
        return self.tf.reshape(last, [self.tf.shape(x)[0], -1])

    def _restart(self, unit_inputs: bool) -> None:
        """Set all variables to the int8 model's weights."""
        for variable, value in zip(self.variables, self._initial, strict=True):
            variable.assign(value)
        tensor = self._model.tensors[self._model.inputs[0]]
        self._unit.assign(128 * float(tensor.scale) if unit_inputs else 1.0)
        # Variable 0 is the weights of the first layer that has any.
        self.variables[0].assign(self._initial[0] * self._unit)

    def _grid(self, variable: int) -> Any:
        """Real value of one code of a variable."""
        return self._grids[variable] * (self._unit if variable == 0 else 1.0)

    def _add_variables(self, layer: SimLayer) -> None:
        """Real weights in TensorFlow's layout: [height, width, in, out], depthwise [height, width, in, multiplier]."""
        assert layer.weights is not None and layer.weight_scales is not None and layer.geometry is not None
        scales = layer.weight_scales.astype(np.float64)
        weights = layer.weights.astype(np.float64)
        ones = np.ones(weights.shape)
        if layer.op == "DEPTHWISE_CONV_2D":
            shape = (*weights.shape[1:3], layer.geometry.channels, -1)
            real, grid = (weights * scales)[0].reshape(shape), (ones * scales)[0].reshape(shape)
        elif layer.op == "FULLY_CONNECTED":
            real, grid = weights.T * scales, ones.T * scales
        else:
            real, grid = weights.transpose(1, 2, 3, 0) * scales, ones.transpose(1, 2, 3, 0) * scales
        speed = 10.0 if self._adapter and not self.variables else 1.0
        index, bias = self._variable(real, grid, speed), None
        if layer.bias is not None:
            accumulator = float(self._model.tensors[layer.inputs[0]].scale) * scales * np.ones(len(layer.bias))
            bias = self._variable(layer.bias * accumulator, accumulator, speed)
        self._of_layer[layer.index] = (index, bias)

    def _variable(self, value: np.ndarray, grid: np.ndarray, speed: float) -> int:
        self._initial.append(value.astype(np.float32))
        self._grids.append(grid.astype(np.float32))
        self._speeds.append(speed)
        self.variables.append(self.tf.Variable(self._initial[-1]))
        return len(self.variables) - 1

    def _apply(self, layer: SimLayer, inputs: list[Any]) -> Any:
        tf, x = self.tf, inputs[0]
        shape = self._model.tensors[layer.output].sample_shape
        if layer.op in ("RESHAPE", "EXPAND_DIMS", "SQUEEZE"):
            return tf.reshape(x, [tf.shape(x)[0], *shape])
        if layer.op == "MEAN" and int(np.prod(shape)) == x.shape[-1]:
            # Over all places, as GlobalAveragePooling takes it.
            return self._activate(layer, tf.reshape(tf.reduce_mean(x, list(range(1, len(x.shape) - 1))), [-1, *shape]))
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
        index, bias = self._of_layer[layer.index]
        weights = self.variables[index]
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
        return self._activate(layer, y if bias is None else y + self.variables[bias])

    def _activate(self, layer: SimLayer, y: Any) -> Any:
        """What the layer's activation function and its int8 tensor let through; of all else the gradient is 0.

        The tensor's range saturates in the float form too: conversion may leave an activation function to it (ReLU6,
        say). The loss sees the last layer's accumulators, as in zeroth-order training.
        """
        tf, name = self.tf, layer.activation
        if name not in LIMITS:
            raise ZoError(f"operator {layer.index} ({layer.op}) has activation {name}, which has no float form here")
        low, high = LIMITS[name]
        if layer is self._layers[-1]:
            return tf.clip_by_value(y, low, high)
        tensor = self._model.tensors[layer.output]
        scale, zero = float(tensor.scale), int(tensor.zero_point)
        low, high = max(low, (-128 - zero) * scale), min(high, (127 - zero) * scale)
        # The same as clip_by_value, in 3/4 of the time of a whole training step: ReLU6's gradient is a single kernel.
        unit = (high - low) / 6
        y = low + unit * tf.nn.relu6((y - low) / unit)
        return y + tf.stop_gradient(tf.round(y / scale) * scale - y) if self._int8 else y


def _padding(geometry: Geometry) -> list[list[int]]:
    g = geometry
    bottom = trailing_padding(
        g.input_height, g.output_height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top
    )
    right = trailing_padding(
        g.input_width, g.output_width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left
    )
    return [[0, 0], [g.pad_top, bottom], [g.pad_left, right], [0, 0]]
