# SPDX-License-Identifier: Apache-2.0
"""What a model carries from one pass to the next, such as the state of an LSTM.

The rule: a sample is computed from a state that is cleared, so two passes on it are equal, whatever came between.
:class:`~tflm_zo.tflm.interpreter.Interpreter` resets TFLM before each sample; the parameter op of a patched model
clears the variable tensors of its operators in each pass, on a board too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tflm_zo.errors import ZoError
from tflm_zo.model.file import builtin_code, builtin_name, schema, shape_of, tensor_name, text_of
from tflm_zo.model.quantization import quantization_of

# Operators of streaming models, whose state lies in variables outside the tensors.
_STREAMING = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE")
# TFLM's custom operators that keep a state of their own.
_INSIDE = (
    "CIRCULAR_BUFFER", "SignalDelay", "SignalFilterBankSpectralSubtraction", "SignalFramer", "SignalOverlapAdd",
    "SignalStacker",
)  # fmt: skip

_BYTES = {
    schema.TensorType.FLOAT32: 4,
    schema.TensorType.INT32: 4,
    schema.TensorType.INT16: 2,
    schema.TensorType.INT8: 1,
    schema.TensorType.UINT8: 1,
}


@dataclass(frozen=True)
class StateTensor:
    """A variable tensor of a plain model: its index, its bytes, and the value of each of them (0 to 255) when it is
    cleared, as TFLM's Reset does."""

    index: int
    bytes: int
    fill: int


@dataclass(frozen=True)
class State:
    """Names of the operators that ``keep`` a state, and the ``tensors`` that it lies in; ``streaming`` and ``inside``
    name those whose state lies elsewhere."""

    keep: tuple[str, ...]
    tensors: tuple[StateTensor, ...]
    streaming: tuple[str, ...]
    inside: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.keep)

    def __str__(self) -> str:
        if self.streaming:
            return (
                f"a stream's, in variables ({', '.join(self.streaming)}); reset before each sample, unless it is kept"
            )
        return f"of {', '.join(self.keep)}; reset before each sample, unless it is kept"

    def require_tensors(self) -> None:
        """Raise :class:`ZoError` if training ops cannot clear the state before each pass."""
        if self.streaming:
            raise ZoError(
                f"the model keeps a stream's state in variables ({self.streaming[0]}), which every pass of a training "
                "would change: train the model that takes a whole window, and make it streaming afterwards"
            )
        if self.inside:
            raise ZoError(
                f"operator {self.inside[0]} keeps a state of its own, which every pass of a training would change: "
                "train the model without it"
            )


def read_state(tree: Any) -> State:
    """Return what a plain model's tree carries from pass to pass. Raises :class:`ZoError` for states that are in no
    tensor of the main subgraph, or of a type that none has."""
    variables: list[StateTensor] = []
    for index, tensor in enumerate(tree.subgraphs[0].tensors):
        if tensor.isVariable:
            variables.append(_state_tensor(index, tensor))
    names = {v.index: None for v in variables}
    keep: dict[str, None] = {}
    for graph in tree.subgraphs:
        main = graph is tree.subgraphs[0]
        for operator in graph.operators or []:
            name = _operator_name(tree, operator)
            inputs = [] if operator.inputs is None else [int(i) for i in operator.inputs]
            if name in (*_STREAMING, *_INSIDE) or (main and any(i in names for i in inputs)):
                keep[name] = None
        if not main and any(tensor.isVariable for tensor in graph.tensors):
            keep["a second subgraph"] = None
    inside = tuple(n for n in keep if n in _INSIDE or n == "a second subgraph")
    return State(tuple(keep), tuple(variables), tuple(n for n in keep if n in _STREAMING), inside)


def _operator_name(tree: Any, operator: Any) -> str:
    code = builtin_code(tree, operator)
    if code == schema.BuiltinOperator.CUSTOM:
        return text_of(tree.operatorCodes[operator.opcodeIndex].customCode)
    return builtin_name(code)


def _state_tensor(index: int, tensor: Any) -> StateTensor:
    size = _BYTES.get(tensor.type)
    if size is None:
        raise ZoError(f"the state {tensor_name(tensor)!r} has a type that no operator of TFLM keeps")
    quantization = quantization_of(tensor) if tensor.type == schema.TensorType.INT8 else None
    fill = 0 if quantization is None else quantization.zero_point % 256
    return StateTensor(index, size * math.prod(shape_of(tensor)), fill)
