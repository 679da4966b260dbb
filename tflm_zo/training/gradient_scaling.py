# SPDX-License-Identifier: Apache-2.0
"""Given learning rates scaled by the dimension of what is perturbed (Zhao et al., ACM TODAES 30(5), 2025)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tflm_zo.ops.step import Group, GroupMode
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.masks import kept_part

_POWERS = {"none": 0.0, "dim": 1.0, "sqrt-dim": 0.5}


def scale_rates(settings: dict[int, Any], group: Group, model: PatchedModel, hyper: Hyperparameters) -> None:
    """Multiply the given rates of a group, in ``settings`` by index, by a power of n / (n + d - 1).

    That is what the estimate of d numbers by n random directions has more energy than the gradient itself, turned
    round. The adapter is left out: its steps have one size.
    """
    if group.mode is GroupMode.SAMPLE_DIRECTIONS:
        return
    nodes = group.mode is GroupMode.NODES
    members = [i for i in range(group.first, group.last) if i in settings and settings[i].sigma]
    dimension = sum((_outputs if nodes else _weights)(model, i, hyper) for i in members)
    # Every sample has directions of its own, but only an accumulator averages over them.
    averages = nodes and any(node.accumulates for node in model.nodes)
    directions = group.queries * (hyper.batch_size if averages else 1)
    factor = (directions / (directions + max(dimension - 1, 0))) ** _POWERS[hyper.gradient_scaling]
    for i in members:
        if settings[i].rate is not None:
            settings[i] = settings[i]._replace(rate=settings[i].rate * factor)


def _weights(model: PatchedModel, index: int, hyper: Hyperparameters) -> float:
    """How many elements of a parameter a direction is expected to perturb, of those with headroom."""
    parameter = model.parameters[index]
    limit = np.iinfo(parameter.dtype).max
    free = np.abs(parameter.initial.astype(np.int64)) <= limit - parameter.entry.headroom
    return kept_part(hyper.keep, parameter.layer) * float(np.sum(free))


def _outputs(model: PatchedModel, index: int, hyper: Hyperparameters) -> float:
    """How many signs a direction is expected to have in a node's output: one for each channel and block."""
    node = model.nodes[index]
    shape, block = node.options.shape, hyper.node_block
    side_y, side_x = (min(block or size, size) for size in (shape.output_height, shape.output_width))
    channels = kept_part(hyper.keep, node.layer) * shape.output_channels
    return channels * -(-shape.output_height // side_y) * -(-shape.output_width // side_x)
