# SPDX-License-Identifier: Apache-2.0
"""SUB and LEAKY_RELU of int8 codes as Chirale's TFLM computes them: with multipliers in double precision.

The host's are computed in single precision. Both see nothing but one or two codes, so all of them are compared.
"""

from __future__ import annotations

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.graph import Graph, Operator, Tensor
from tflm_zo.model.quantization import INT8_MAX, INT8_MIN
from tflm_zo.simulator import code_tables
from tflm_zo.simulator.code_tables import rescale
from tflm_zo.simulator.fixed_point import AddMultipliers, add_multipliers, quantize_multiplier, subtract_multipliers
from tflm_zo.simulator.layouts import ADD_HEADROOM_BITS

_CODES = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int64)


def double_multipliers_differ(graph: Graph, operator: Operator) -> bool:
    """Whether some codes give another result than on the host. False for tensors that are not int8."""
    tensors = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs)]
    if any(tensor.type != "INT8" or tensor.scales.size != 1 for tensor in tensors):
        return False
    try:
        if operator.name == "SUB":
            scales = [tensor.scale for tensor in tensors]
            host, other = (_differences(tensors, f(*scales)) for f in (subtract_multipliers, add_multipliers))
        else:
            alpha = float(operator.options.get("alpha", 0.0))
            host = code_tables.leaky_relu(tensors[0], tensors[1], alpha)
            other = _leaky_relu(tensors[0], tensors[1], alpha)
    except ZoError:
        return False  # scales that no kernel takes
    return not np.array_equal(host, other)


def _differences(tensors: list[Tensor], multipliers: AddMultipliers) -> np.ndarray:
    first, second = (
        rescale((_CODES - tensor.zero_point) << ADD_HEADROOM_BITS, multiplier)
        for tensor, multiplier in zip(tensors, multipliers[:2], strict=False)
    )
    difference = rescale(first[:, None] - second[None, :], multipliers.output)
    return np.clip(difference + tensors[2].zero_point, INT8_MIN, INT8_MAX)


def _leaky_relu(source: Tensor, target: Tensor, alpha: float) -> np.ndarray:
    x = _CODES - source.zero_point
    slope = float(source.scale) * float(np.float32(alpha)) / float(target.scale)
    below = np.sign(slope).astype(np.int64) * rescale(x, quantize_multiplier(abs(slope)))
    above = rescale(x, quantize_multiplier(float(source.scale) / float(target.scale)))
    return np.clip(np.where(x >= 0, above, below) + target.zero_point, INT8_MIN, INT8_MAX)
