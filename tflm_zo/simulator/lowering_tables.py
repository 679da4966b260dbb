# SPDX-License-Identifier: Apache-2.0
"""Lowerings of operators that are a table of codes (:mod:`tflm_zo.simulator.code_tables`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tflm_zo.model.graph import Tensor
from tflm_zo.simulator import code_tables, fixed_point
from tflm_zo.simulator.lowering_context import Context
from tflm_zo.simulator.sim_layer import SimLayer

_Lowering = Callable[[Context], SimLayer]
_TANH_SCALE = np.float32(1.0 / 128.0)


def _ends(c: Context) -> tuple[Tensor, Tensor]:
    source, target = c.activation(c.input), c.activation(c.output)
    if source.sample_size != target.sample_size:
        raise c.fail(f"input and output have shapes {source.shape} and {target.shape}; they must be the same")
    return source, target


def _lookup(make: Callable[[Tensor, Tensor], np.ndarray]) -> _Lowering:
    def lowering(c: Context) -> SimLayer:
        c.engine.add_lookup((c.input, c.output), make(*_ends(c)))
        return c.layer()

    return lowering


def _leaky_relu(c: Context) -> SimLayer:
    table = code_tables.leaky_relu(*_ends(c), float(c.op.options.get("alpha", 0.0)))
    c.engine.add_lookup((c.input, c.output), table)
    return c.layer()


def _tanh(c: Context) -> SimLayer:
    source, target = _ends(c)
    if target.zero_point != 0 or target.scale != _TANH_SCALE:
        raise c.fail("the output must have scale 1/128 and zero point 0")
    c.engine.add_tanh((c.input, c.output), source.zero_point, fixed_point.logistic_params(source.scale))
    return c.layer()


def _pairs(make: Callable[[Tensor, Tensor, Tensor], np.ndarray]) -> _Lowering:
    def lowering(c: Context) -> SimLayer:
        (first, one), (second, other) = (c.operand(index) for index in c.op.inputs[:2])
        inputs = tuple(operand.tensor for operand in (one, other) if operand.tensor >= 0)
        if not inputs:
            raise c.fail("both inputs are constants; an input that is computed is needed")
        c.engine.add_pairs((one, other), c.output, make(first, second, c.activation(c.output)))
        return c.layer(inputs=inputs)

    return lowering


TABLE_LOWERINGS: dict[str, _Lowering] = {
    "ABS": _lookup(code_tables.absolute),
    "ELU": _lookup(code_tables.elu),
    "HARD_SWISH": _lookup(code_tables.hard_swish),
    "LEAKY_RELU": _leaky_relu,
    "MAXIMUM": _pairs(code_tables.maximum),
    "MINIMUM": _pairs(code_tables.minimum),
    "PRELU": _pairs(code_tables.prelu),
    "RELU": _lookup(code_tables.relu),
    "RELU6": _lookup(code_tables.relu6),
    "RSQRT": _lookup(code_tables.rsqrt),
    "SQUARED_DIFFERENCE": _pairs(code_tables.squared_difference),
    "TANH": _tanh,
}
