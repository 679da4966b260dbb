# SPDX-License-Identifier: Apache-2.0
"""Adding tensors and custom operators to a model's tree."""

from __future__ import annotations

from typing import Any

import numpy as np

from tflm_zo.model.file import schema
from tflm_zo.ops.names import PREFIX


class TreeEditor:
    """Adds to one model tree in place."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self._graph = tree.subgraphs[0]
        self._codes: dict[str, int] = {}

    def add_tensor(
        self, name: str, kind: int, shape: tuple[int, ...], *, buffer: int = 0, variable: bool = False
    ) -> int:
        """Add a tensor named ``zo/`` and ``name``, of a type of the schema; returns its index."""
        tensor = schema.TensorT()
        tensor.name = PREFIX + name
        tensor.type = kind
        tensor.shape = np.array(shape, dtype=np.int32)
        tensor.buffer = buffer
        tensor.isVariable = variable
        tensor.hasRank = True
        if variable:
            give_zero_point(tensor)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def operator(self, name: str, inputs: list[int], outputs: list[int], options: bytes) -> Any:
        """Return a custom operator ``name`` on these tensors, which is not in the graph yet."""
        if name not in self._codes:
            code = schema.OperatorCodeT()
            code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
            code.builtinCode = schema.BuiltinOperator.CUSTOM
            code.customCode = name
            code.version = 1
            self._tree.operatorCodes.append(code)
            self._codes[name] = len(self._tree.operatorCodes) - 1
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes[name]
        operator.inputs = np.array(inputs, dtype=np.int32)
        operator.outputs = np.array(outputs, dtype=np.int32)
        operator.customOptions = np.frombuffer(options, dtype=np.uint8)
        return operator


def give_zero_point(variable: Any) -> None:
    """Give an int8 variable a zero point of 0, if it has none.

    TFLM of 2023/24, in Arduino's libraries, fills int8 variables with their zero point before the first pass, and
    reads it without looking whether there is one.
    """
    if variable.type != schema.TensorType.INT8:
        return
    if variable.quantization is None:
        variable.quantization = schema.QuantizationParametersT()
    quantization = variable.quantization
    if quantization.scale is None or len(quantization.scale) == 0:
        quantization.scale = [1.0]
    if quantization.zeroPoint is None or len(quantization.zeroPoint) == 0:
        quantization.zeroPoint = [0] * len(quantization.scale)
