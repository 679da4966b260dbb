# SPDX-License-Identifier: Apache-2.0
"""The input adapter: an identity layer in front of a model, for drifts of the sensor.

A gain and an offset for every entry of the input's last axis longer than one (feature coefficients, colour channels,
sensor axes). Ageing, dirt, another microphone change just these few numbers, which weight perturbation finds in few
passes, where the first layer's thousands of weights would need many.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tflm_zo.model.file import shape_of, tensor_name
from tflm_zo.model.quantization import quantization_of
from tflm_zo.ops.channel_statistics import channel_axis
from tflm_zo.ops.layouts import ADAPTER_UNIT
from tflm_zo.patching.front_layer import inner_input_index, input_tensor, insert_front_layer

NAME = "adapter"

# Weight code of gain 1: a power of two, so that the untrained adapter is exactly the identity; gains reach 3.97.
UNIT = ADAPTER_UNIT


def add_adapter(tree: Any, gains: np.ndarray | None = None, offsets: np.ndarray | None = None) -> None:
    """Insert the adapter behind the model's only input, in place; outputs stay the same to the bit.

    ``gains`` (positive, (channels,)) and ``offsets`` (input codes, (channels,)): what it does to a channel from the
    beginning, about the input's zero point; in the weights' scales and in the bias, so trainable from there.

    Behind a float or uint8 input it adapts the int8 codes that the model makes of it. Raises :class:`ZoError` if the
    model has several inputs, or its input is not int8 inside with a batch of one.
    """
    tensor = input_tensor(tree, "the adapter")
    shape = shape_of(tensor)
    quantization = quantization_of(tensor)
    assert quantization is not None
    channels = shape[channel_axis(shape)]
    if gains is None or offsets is None:
        gains, offsets = np.ones(channels), np.zeros(channels)
    # Trailing axes of length one follow the adapted axis; both orders are the same memory.
    spread = (1, int(np.prod(shape)) // channels, 1, channels)
    weights = np.full((1, 1, 1, channels), UNIT, dtype=np.int8)
    # What is not 1 is in the scales, so no gain is rounded.
    scales = (gains / UNIT).astype(np.float32)
    units = quantization.scale * scales.astype(np.float64)
    codes = np.rint(offsets * quantization.scale / units).astype(np.int32)
    insert_front_layer(tree, NAME, spread, weights, scales, bias=(codes, units))


def has_adapter(tree: Any) -> bool:
    """Whether a model has an adapter in front."""
    return any(tensor_name(tensor) == f"{NAME}/depthwise" for tensor in tree.subgraphs[0].tensors)


def reads_the_input(tree: Any) -> bool:
    """Whether the adapter gets the model's input as it comes, with no other layer ahead of it."""
    graph = tree.subgraphs[0]
    entry = next(i for i, tensor in enumerate(graph.tensors) if tensor_name(tensor) == f"{NAME}/in")
    source = next(int(op.inputs[0]) for op in graph.operators if entry in op.outputs)
    return source == inner_input_index(tree)
