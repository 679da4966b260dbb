# SPDX-License-Identifier: Apache-2.0
"""Relative gradient norms of layers, by forward passes.

The norm of the loss gradient with respect to a layer's weights over the norm of the weights, both in the units of
the float model: how fast training would change the layer, by which sparse-update methods rank layers (Lin et al.,
"On-Device Training Under 256KB Memory", 2022; Zhao et al., ACM TODAES 30(5), 2025).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflm_zo.errors import no_data_warnings
from tflm_zo.model.file import load_model
from tflm_zo.model.layers import Layer, trainable_layers
from tflm_zo.model.window import trailing_padding
from tflm_zo.ops.options import DEPTHWISE, LayerShape
from tflm_zo.patching.layer_shape import layer_shape
from tflm_zo.patching.loss_path import ClosedForm, closed_forms, find_loss_end
from tflm_zo.patching.patch import patch
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.simulator.model import SimModel
from tflm_zo.training.samples import sample_codes

# Number of directions of an estimate. Each gives the squared norm times a chi-squared number of one degree of freedom,
# whatever the number of weights, so the norm's standard error is about 1 / sqrt(2 * directions).
DIRECTIONS = 16
# The most codes that a perturbation moves a weight by, where channels have very different scales.
_LARGEST_STEP = 8


@dataclass(frozen=True)
class RelativeGradient:
    """|gradient| / |weights|, its standard error (0: computed in closed form), and the forward passes it took."""

    value: float
    error: float
    passes: int


class GradientProbe:
    """Measures the plain int8 ``model`` on samples ``x`` with labels ``y``, all of them in every pass; ``loss`` as for
    :func:`tflm_zo.patch`.

    Raises :class:`~tflm_zo.errors.ZoError` for models that cannot be trained or simulated, and unusable samples.
    """

    def __init__(self, model: bytes, x: np.ndarray, y: np.ndarray, loss: str = "auto") -> None:
        self._tree = load_model(model)
        self._layers = trainable_layers(self._tree)
        self._end = find_loss_end(self._tree, self._layers, loss)
        self._closed = {form.layer.name: form for form in closed_forms(self._tree, self._layers, self._end.head)}
        self._by_name = {layer.name: layer for layer in self._layers}
        patched = read_patched(patch(model, "last:1", loss))
        codes, targets = sample_codes(x, y, patched)
        self._count = len(codes)
        self._classes = patched.loss.classes > 0
        # Each position of a map counts as a sample of its own.
        self._targets = targets.reshape(-1, 1) if self._classes else targets.reshape(len(codes), -1)
        self._sim = SimModel(model)
        self._activations = self._sim.activations(self._sim.codes(codes.reshape(len(codes), *patched.input_shape[1:])))

    def relative_gradient(self, name: str, seed: int) -> RelativeGradient:
        """Measure layer ``name``; ``seed`` fixes the directions of an estimate."""
        layer = self._by_name[name]
        size = float(np.linalg.norm(self._codes(layer) * _along_channels(layer, layer.weight_scales)))
        if layer is self._end.head or name in self._closed:
            return RelativeGradient(float(np.linalg.norm(self.closed_form(layer.name))) / size, 0.0, self._count)
        squares = self._squares(layer, np.random.default_rng([seed, layer.ordinal]))
        norm = float(np.sqrt(squares.mean()))
        # By the delta method: the error of a square root is that of its argument over twice its value.
        error = float(squares.std(ddof=1) / np.sqrt(len(squares)) / (2 * norm)) if norm else 0.0
        return RelativeGradient(norm / size, error / size, 2 * DIRECTIONS * self._count)

    # -- in closed form --------------------------------------------------------------------------------------

    def closed_form(self, name: str) -> np.ndarray:
        """Return the gradient of the mean loss with respect to the float weights of the head, or of a layer that
        reaches it by pooling, reshaping and one addition alone; float64, its shape that of the tensor's axes."""
        layer, head = self._by_name[name], self._end.head
        assert head is not None
        slopes = self._logit_gradient(self._logits(self._sim.layer_of(head.output)))
        if layer is head:
            return slopes.T @ self._real_input(head).reshape(len(slopes), -1)
        weights = self._codes(head).reshape(head.outputs, -1) * head.weight_scales.reshape(-1, 1)
        return filter_gradient(
            layer_shape(self._tree, layer),
            self._real_input(layer),
            self._spread(self._closed[name], slopes @ weights),
        )

    def _spread(self, form: ClosedForm, features: np.ndarray) -> np.ndarray:
        """Return the gradient (n, rows, columns, channels) at ``form.mask`` from that of the head's input."""
        values = self._activations[form.mask]
        producer = next(op for op in self._sim.layers if op.output == form.mask)
        low, high = producer.activation_min, producer.activation_max
        window = (form.window_height, form.window_width)
        shape = values.shape if values.ndim == 4 else (len(values), 1, 1, values.shape[-1])
        pooled = (shape[0], shape[1] // window[0], shape[2] // window[1], shape[3])
        spread = features.reshape(pooled).repeat(window[0], axis=1).repeat(window[1], axis=2) / (window[0] * window[1])
        passing = (values > low) & (values < high)
        return spread * passing.reshape(shape)

    # -- estimates -------------------------------------------------------------------------------------------

    def _squares(self, layer: Layer, rng: np.random.Generator) -> np.ndarray:
        """Return unbiased estimates of |gradient|^2, one a direction.

        All weights are moved at random with the same variance step^2 in the units of the float model, so that the
        mean of ((L(+) - L(-)) / 2)^2 is step^2 |gradient|^2. Codes are whole, so a weight of a large scale is moved
        seldom, one of a small scale by more.
        """
        weights = self._sim.constant(layer.weights)
        clean = weights.copy()
        scales = _along_channels(layer, layer.weight_scales)
        step = float(np.median(layer.weight_scales))
        codes = np.clip(np.ceil(step / scales), 1, _LARGEST_STEP)
        chance = np.minimum((step / (codes * scales)) ** 2, 1.0)
        # A weight at an end of the range is first moved inside, so that it can be perturbed both ways. To first order
        # its slope is the same there.
        centre = np.clip(clean, codes - 127, 127 - codes)
        estimates = []
        try:
            for _ in range(DIRECTIONS):
                signs = rng.choice([-1, 1], clean.shape) * (rng.random(clean.shape) < chance)
                sides = []
                for side in (1, -1):
                    weights[...] = np.where(signs == 0, clean, centre + side * signs * codes).astype(np.int8)
                    sides.append(float(self._losses(self._logits(self._sim.layer_of(layer.output))).mean()))
                estimates.append(((sides[0] - sides[1]) / (2 * step)) ** 2)
        finally:
            weights[...] = clean
        return np.array(estimates)

    # -- the loss --------------------------------------------------------------------------------------------

    def _logits(self, first: int) -> np.ndarray:
        """Return the logits (n * positions, outputs), float64, with all operators from ``first`` on run anew."""
        end, head = self._end, self._end.head
        if head is not None and self._classes:
            # From the accumulators, as the loss op takes them: int8 logits would hide small differences.
            last = self._sim.layer_of(head.output)
            found = self._sim.run_layers(first, last + 1, self._activations, (), last).accumulators
            assert found is not None
            return found.reshape(-1, end.outputs) * (head.accumulator_scales * np.ones(end.outputs))
        last = next(op.index for op in self._sim.layers if op.output == end.logits)
        codes = self._sim.run_layers(first, last + 1, self._activations, (end.logits,)).tensors[end.logits]
        return self._real(codes.reshape(-1, end.outputs))

    def _real(self, codes: np.ndarray) -> np.ndarray:
        return self._end.quantization.reals(codes)

    def _losses(self, logits: np.ndarray) -> np.ndarray:
        if not self._classes:
            return ((logits - self._real(self._targets)) ** 2).mean(axis=1)
        classes = _of_classes(logits)
        return np.logaddexp.reduce(classes, axis=1) - np.take_along_axis(classes, self._targets, axis=1)[:, 0]

    def _logit_gradient(self, logits: np.ndarray) -> np.ndarray:
        """Return d mean loss / d logits, (n * positions, outputs)."""
        if not self._classes:
            low, high = self._real(np.array([-128, 127]))
            slopes = 2 * (logits - self._real(self._targets)) / logits.shape[1] * ((logits > low) & (logits < high))
        else:
            classes = _of_classes(logits)
            slopes = np.exp(classes - np.logaddexp.reduce(classes, axis=1, keepdims=True))
            slopes[np.arange(len(slopes)), self._targets[:, 0]] -= 1
            slopes = slopes[:, -logits.shape[1] :]
        return slopes / len(slopes)

    def _real_input(self, layer: Layer) -> np.ndarray:
        return layer.input_quantization.reals(self._activations[layer.input])

    def _codes(self, layer: Layer) -> np.ndarray:
        return self._sim.constant(layer.weights).astype(np.float64)


def _of_classes(logits: np.ndarray) -> np.ndarray:
    """Logits (n, classes): a single one is that of class 1, and class 0 has 0, whose softmax is the sigmoid."""
    return np.hstack([np.zeros_like(logits), logits]) if logits.shape[1] == 1 else logits


def measure_gradient(model: bytes, x: np.ndarray, y: np.ndarray, loss: str, name: str, seed: int) -> RelativeGradient:
    """Return :meth:`GradientProbe.relative_gradient` of one layer; a call for another process."""
    with no_data_warnings():
        return GradientProbe(model, x, y, loss).relative_gradient(name, seed)


def _along_channels(layer: Layer, scales: np.ndarray) -> np.ndarray:
    """Scales (one, or one a channel) in a shape that goes with the weights."""
    if scales.size == 1 or layer.channel_axis > 0:  # the last axis
        return scales
    return scales.reshape(-1, 1) if layer.kind == "FULLY_CONNECTED" else scales.reshape(-1, 1, 1, 1)


def filter_gradient(shape: LayerShape, x: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Return dL/dW from the layer's inputs ``x`` and dL/dy ``slopes``, (n, rows, columns, channels) both.

    The result is (outputs, filter rows, filter columns, inputs), for depthwise layers without the last axis and
    with the outputs last.
    """
    x = x.reshape(len(x), shape.input_height, shape.input_width, shape.input_channels)
    slopes = slopes.reshape(len(x), shape.output_height, shape.output_width, shape.output_channels)
    s = shape
    bottom = trailing_padding(
        s.input_height, s.output_height, s.filter_height, s.stride_height, s.dilation_height, s.pad_top
    )
    right = trailing_padding(
        s.input_width, s.output_width, s.filter_width, s.stride_width, s.dilation_width, s.pad_left
    )
    padded = np.pad(x, ((0, 0), (s.pad_top, bottom), (s.pad_left, right), (0, 0)))
    rows = []
    for i in range(shape.filter_height):
        columns = []
        for j in range(shape.filter_width):
            top, left = i * shape.dilation_height, j * shape.dilation_width
            seen = padded[
                :,
                top : top + (shape.output_height - 1) * shape.stride_height + 1 : shape.stride_height,
                left : left + (shape.output_width - 1) * shape.stride_width + 1 : shape.stride_width,
            ]
            if shape.kind == DEPTHWISE:
                columns.append((slopes * seen.repeat(shape.depth_multiplier, axis=3)).sum(axis=(0, 1, 2)))
            else:
                columns.append(np.tensordot(slopes, seen, axes=((0, 1, 2), (0, 1, 2))))
        rows.append(np.stack(columns, axis=-2))
    return np.stack(rows, axis=-3)
