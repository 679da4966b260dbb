# SPDX-License-Identifier: Apache-2.0
"""Peak RAM of a training on a 32-bit board: the arena of a patched model, and what back-propagation would need.

Back-propagation's is computed from the network, and kindly: what an implementation cannot do without.

* Weights and biases in RAM: 4 bytes each (float), or 1 byte a weight and 4 a bias (int8).
* Their gradient summed over a batch: 4 bytes each. Optimizer: 8 bytes each (Adam), 4 (momentum), 0 (SGD in int8).
* Activations of one sample that the backward pass reads, kept until it has: the inputs of layers with weights (for
  the weights' gradient) and outputs that an activation function may have clipped (for its derivative); 4 bytes an
  element (float) or 1 (int8). While the backward pass is at a layer, those of the layers up to it are still kept.
* Gradients of that layer's output and input, 4 bytes an element.

Left out: the samples, code's own state, structures of a runtime, a residual branch's waiting gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflm_zo.board.arena import TFLM_32, plan_arena
from tflm_zo.model_file import load_model
from tflm_zo.simulator import SimModel


@dataclass(frozen=True)
class BackpropMemory:
    """Bytes by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.gradients + self.optimizer + self.activations


def arena(model: bytes) -> int:
    """Bytes of TFLM's arena, plain or patched model, 32-bit, CMSIS-NN kernels."""
    return plan_arena([load_model(model)], TFLM_32, cmsis_nn=True).used


def backprop_memory(model: bytes, int8: bool, optimizer: str) -> BackpropMemory:
    """Peak RAM of training all layers of an int8 ``model``; ``optimizer`` as :class:`suites.float_network.Setting`."""
    network = SimModel(model)
    layers = [layer for layer in network.layers if layer.op not in ("SOFTMAX", "RESHAPE")]
    weights = sum(layer.weights.size for layer in layers if layer.weights is not None)
    biases = sum(layer.bias.size for layer in layers if layer.bias is not None)
    state = {"Adam": 8, "SGD": 4, "QAS": 0}[optimizer]
    # A reshaped tensor is its source.
    source = {layer.output: layer.inputs[0] for layer in network.layers if layer.op == "RESHAPE"}

    def root(tensor: int) -> int:
        while tensor in source:
            tensor = source[tensor]
        return tensor

    def size(tensor: int) -> int:
        return int(np.prod(network.tensors[tensor].sample_shape))

    kept: set[int] = set()
    peak = 0
    for layer in layers:
        if layer.weights is not None:
            kept.add(root(layer.inputs[0]))
        if layer.options.get("fusedActivationFunction", "NONE") != "NONE":
            kept.add(layer.output)
        stored = sum(size(tensor) for tensor in kept) * (1 if int8 else 4)
        first = root(layer.inputs[0]) == network.inputs[0]  # nobody asks for the gradient of the samples
        gradients = 4 * (size(layer.output) + (0 if first else size(layer.inputs[0])))
        peak = max(peak, stored + gradients)
    return BackpropMemory(
        weights=weights + 4 * biases if int8 else 4 * (weights + biases),
        gradients=4 * (weights + biases),
        optimizer=state * (weights + biases),
        activations=peak,
    )
