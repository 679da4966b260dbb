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

Back-propagation in the RAM of a forward-only training trains the layers from one on to the last: as many as fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflm_zo import patch
from tflm_zo.model.activation import NONE
from tflm_zo.model.file import load_model
from tflm_zo.model.layers import trainable_layers
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.simulator.model import SimModel
from tflm_zo.tflm.arena import plan_arena
from tflm_zo.tflm.layouts import TFLM_32


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


def first_affordable_layer(model: bytes) -> int:
    """Return the layer (as the simulator counts them) from which on to the last back-propagation can train in the RAM
    that the default patch trains in.

    Kindly: weights and kept activations in int8, no optimizer, each sample's gradient applied at once, so that none is
    summed; and never fewer layers than the default patch trains, whatever the gradients of activations need.
    """
    patched = patch(model)
    room = arena(patched) - arena(model)
    layers = [layer for layer in SimModel(model).layers if layer.weights is not None]
    trained = {parameter.name.rsplit("/", 1)[0] for parameter in read_patched(patched).parameters}
    named = [layer.name in trained for layer in trainable_layers(load_model(model))]
    least = named.index(True)
    for number, layer in enumerate(layers):
        need = backprop_memory(model, True, "QAS", layer.index)
        if number == least or need.weights + need.activations <= room:
            return layer.index
    return layers[-1].index


def backprop_memory(model: bytes, int8: bool, optimizer: str, trained_from: int = 0) -> BackpropMemory:
    """Peak RAM of training the layers of an int8 ``model`` from one on; ``optimizer`` as
    :class:`suites.float_network.Setting`."""
    network = SimModel(model)
    layers = [layer for layer in network.layers if layer.op not in ("SOFTMAX", "RESHAPE")]
    layers = [layer for layer in layers if layer.index >= trained_from]
    first_trained = next(layer.index for layer in layers if layer.weights is not None)
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
        if layer.activation != NONE:
            kept.add(layer.output)
        stored = sum(size(tensor) for tensor in kept) * (1 if int8 else 4)
        # Nobody asks for the gradient of the samples, or of what frozen layers made of them.
        first = root(layer.inputs[0]) == network.inputs[0] or layer.index == first_trained
        gradients = 4 * (size(layer.output) + (0 if first else size(layer.inputs[0])))
        peak = max(peak, stored + gradients)
    return BackpropMemory(
        weights=weights + 4 * biases if int8 else 4 * (weights + biases),
        gradients=4 * (weights + biases),
        optimizer=state * (weights + biases),
        activations=peak,
    )
