# SPDX-License-Identifier: Apache-2.0
"""What the kernels of a packaging of TFLM do otherwise than the host's, operator by operator.

The host runs a TFLM of 2026 with the reference kernels. The Arduino libraries carry TFLM of 2023/24 with CMSIS-NN's.
Each rule here is a form of an operator that ends there in an error at run time, or, without a word, in other numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tflm_zo.board.double_multipliers import double_multipliers_differ
from tflm_zo.board.old_reductions import reduction_differs
from tflm_zo.model.graph import Graph, Operator

_Form = Callable[[Graph, Operator], bool]

# Types of tensors that TFLM's kernels have learned since.
_LATER_TYPES = {
    "ADD": {"INT32"},
    "SUB": {"INT32"},
    "CAST": {"BOOL"},
    "SLICE": {"BOOL"},
    **{
        name: {"INT16"}
        for name in (
            "AVERAGE_POOL_2D", "EXPAND_DIMS", "EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "MAXIMUM",
            "MAX_POOL_2D", "MINIMUM", "NOT_EQUAL", "PACK", "RELU", "RELU6", "RSQRT", "SQUARED_DIFFERENCE",
            "TRANSPOSE", "UNPACK",
        )
    },
}  # fmt: skip
# Axes for which the old kernels of MEAN and SUM have room; they write beyond it.
_MOST_REDUCED_AXES = 2
# The schema's inputs of an LSTM. Cells of a finer scale are shifted in place before their tanh.
_LSTM_INPUTS, _LSTM_INTERMEDIATES, _LSTM_HIDDEN, _LSTM_CELL = 20, 5, 18, 19
_FINEST_CELL = 2.0**-12


@dataclass(frozen=True)
class KernelLimit:
    """A form of an operator that a library's kernel does not compute as the host's does.

    ``why`` completes "in LIBRARY its kernel ..."; ``remedy`` says what to do.
    """

    operators: frozenset[str]
    form: _Form
    why: str
    remedy: str


def _of(*operators: str) -> frozenset[str]:
    return frozenset(operators)


def per_channel_dense(graph: Graph, operator: Operator) -> bool:
    """Whether a fully connected layer's weights have several scales."""
    return operator.name == "FULLY_CONNECTED" and graph.tensors[operator.inputs[1]].scales.size > 1


def _shifted_weights(graph: Graph, operator: Operator) -> bool:
    return bool(np.any(graph.tensors[operator.inputs[1]].zero_points != 0))


def _grouped(graph: Graph, operator: Operator) -> bool:
    x, weights = (graph.tensors[i].shape for i in operator.inputs[:2])
    return x[-1] != weights[-1]


def _several_samples(graph: Graph, operator: Operator) -> bool:
    return graph.tensors[operator.inputs[0]].shape[0] != 1


def _many_axes(graph: Graph, operator: Operator) -> bool:
    axes = graph.tensors[operator.inputs[1]].data
    return axes is not None and np.unique(axes).size > _MOST_REDUCED_AXES


def _uses_later_type(graph: Graph, operator: Operator) -> bool:
    types = {graph.tensors[i].type for i in (*operator.inputs, *operator.outputs) if i >= 0}
    return not types.isdisjoint(_LATER_TYPES[operator.name])


def _activated(graph: Graph, operator: Operator) -> bool:
    del graph
    return operator.activation != "NONE"


def _half_pixels(graph: Graph, operator: Operator) -> bool:
    del graph
    return bool(operator.options.get("halfPixelCenters"))


def _always(graph: Graph, operator: Operator) -> bool:
    del graph, operator
    return True


def _other_lstm(graph: Graph, operator: Operator) -> bool:
    """Whether an LSTM is not of the form that TensorFlow's converter writes, which old and new kernels agree on."""
    if len(operator.inputs) < _LSTM_INPUTS or len(operator.intermediates) != _LSTM_INTERMEDIATES:
        return True
    hidden, cell = (graph.tensors[operator.inputs[i]] for i in (_LSTM_HIDDEN, _LSTM_CELL))
    inner = graph.tensors[operator.intermediates[-1]]
    same = inner.scales.tolist() == hidden.scales.tolist() and inner.zero_point == hidden.zero_point
    return not same or bool(np.any(cell.scales < _FINEST_CELL))


def _starts_elsewhere(graph: Graph, operator: Operator) -> bool:
    return graph.tensors[operator.inputs[1]].zero_point != 0


_CURRENT = "export with --tflm-library tree, for a board that a current TFLM compiles for"
_OLD_LIMITS = (
    KernelLimit(
        _of("FULLY_CONNECTED"), per_channel_dense,
        "knows one scale for all outputs, and here each has its own",
        f"convert the model to int8 inputs and weights, or {_CURRENT}",
    ),
    KernelLimit(
        _of("FULLY_CONNECTED"), _shifted_weights,
        "takes the weights' zero point for 0, and here it is not",
        "convert the model with TensorFlow 2 or later, which writes symmetric weights",
    ),
    KernelLimit(
        _of("CONV_2D"), _grouped,
        "knows no groups of channels",
        f"use a layer with groups=1 or a DepthwiseConv2D, or {_CURRENT}",
    ),
    KernelLimit(
        _of("DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D"), _several_samples,
        "computes one sample, and this layer has several at once",
        "convert the model with a batch size of 1",
    ),
    KernelLimit(
        _of("MEAN", "SUM"), _many_axes,
        f"has room for {_MOST_REDUCED_AXES} axes and writes beyond it",
        f"reduce fewer axes at a time, or {_CURRENT}",
    ),
    KernelLimit(
        _of("MEAN", "SUM"), reduction_differs,
        "rounds otherwise than the host's",
        f"put an AveragePooling in its place (over the whole map, for a mean), or {_CURRENT}",
    ),
    KernelLimit(
        _of("TRANSPOSE_CONV"), _activated,
        "leaves out the activation that is fused into it",
        "make the activation a layer of its own that is not fused (LeakyReLU, say), or " + _CURRENT,
    ),
    KernelLimit(
        _of("RESIZE_NEAREST_NEIGHBOR"), _half_pixels,
        "knows no half_pixel_centers",
        f"resize bilinearly, or {_CURRENT}",
    ),
    KernelLimit(_of(*_LATER_TYPES), _uses_later_type, "lacks a type of its tensors", _CURRENT),
)  # fmt: skip
# Chirale's TFLM is the older one of the two.
_OTHER = "export with --tflm-library arduino-examples"
_CHIRALE_LIMITS = (
    KernelLimit(
        _of("SUB", "LEAKY_RELU"), double_multipliers_differ,
        "computes its multipliers in double precision, so that some codes come out otherwise", _OTHER,
    ),
    KernelLimit(
        _of("UNIDIRECTIONAL_SEQUENCE_LSTM"), _other_lstm,
        "takes no LSTM without the converter's five intermediate tensors, or with cells of a scale below 2**-12",
        "convert the Keras model again, or use an unrolled LSTM (unroll=True)",
    ),
    KernelLimit(
        _of("ASSIGN_VARIABLE"), _starts_elsewhere, "starts the variable with code 0, not with its zero point", _OTHER,
    ),
)  # fmt: skip
_ARDUINO_EXAMPLES_LIMITS = (
    KernelLimit(
        _of("UNIDIRECTIONAL_SEQUENCE_LSTM"), _always,
        "scales its gates by a number that is not quite 2**-15, so that some codes come out otherwise",
        "export with --tflm-library chirale, or use an unrolled LSTM (unroll=True)",
    ),
)  # fmt: skip
# The sketch gives TFLM's interpreter no memory for variables.
_SKETCH_LIMITS = (
    KernelLimit(
        _of("VAR_HANDLE"), _always,
        "needs memory for variables, which the sketch's interpreter has none of",
        "use a model whose input is the whole window, not a streaming one",
    ),
)  # fmt: skip
KERNEL_LIMITS: dict[str, tuple[KernelLimit, ...]] = {
    "chirale": (*_OLD_LIMITS, *_CHIRALE_LIMITS, *_SKETCH_LIMITS),
    "arduino-examples": (*_OLD_LIMITS, *_ARDUINO_EXAMPLES_LIMITS, *_SKETCH_LIMITS),
    "tree": _SKETCH_LIMITS,
}
# Those whose kernels some layers can be replaced for.
OLD_LIBRARIES = frozenset({"chirale", "arduino-examples"})


def first_limit(library: str, graph: Graph) -> tuple[Operator, KernelLimit] | None:
    """Return the first operator of a model that a library's kernel gets wrong, and how; None if there is none."""
    for operator in graph.operators:
        for limit in KERNEL_LIMITS[library]:
            if operator.name in limit.operators and limit.form(graph, operator):
                return operator, limit
    return None
