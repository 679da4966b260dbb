# SPDX-License-Identifier: Apache-2.0
"""What a model's input and output are: their own type, and the int8 tensor that its operators compute with.

Converters put a QUANTIZE behind an input that is float or uint8, and a DEQUANTIZE or QUANTIZE before such an output.
Everything that reads samples, runs a model or measures it asks here, so that all understand the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.graph import Graph, Tensor, changes_type
from tflm_zo.model.quantization import Quantization, dequantize
from tflm_zo.model.samples import input_codes

# A code of uint8 is that of int8 plus this, in models as in images.
UINT8_OFFSET = 128

_DTYPES: dict[str, Any] = {"INT8": np.int8, "UINT8": np.uint8, "FLOAT32": np.float32}
TO_INT8 = "convert the model to full int8 with `tflm-zo convert` (inference_input_type and -output_type tf.int8)"


@dataclass(frozen=True)
class End:
    """An input or output: ``outer`` is the tensor that programs fill or read, of int8, uint8 or float32; ``inner`` the
    int8 tensor behind or before it, which is the same in int8 models, and None in a model without one."""

    outer: Tensor
    inner: Tensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape, [1, ...]."""
        return self.outer.shape

    @property
    def dtype(self) -> np.dtype:
        """The type that programs fill or read."""
        return np.dtype(_DTYPES[self.outer.type])

    @property
    def bytes(self) -> int:
        """Bytes of one sample in the outer tensor."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def quantization(self) -> Quantization | None:
        """Scale and zero point of the int8 codes inside, None without."""
        return None if self.inner is None else self.inner.quantization

    def codes(self, x: np.ndarray, name: str = "x") -> np.ndarray:
        """Return samples ``x`` (n, ...) as the outer tensor takes them, (n, *shape).

        Floats are values in the units of the Keras model. int8 are the codes of the int8 tensor inside, whatever the
        input's own type; uint8, as in images, are the same codes plus 128, which a uint8 input takes as they are.
        Raises :class:`ZoError` for another shape or dtype, no samples, or values that are not finite.
        """
        x = np.asarray(x)
        if self.outer.type == "FLOAT32" and x.dtype.kind == "f":
            return input_codes(x, self.shape, None, name)
        inside = input_codes(x, self.shape, self.quantization, name)
        if inside.dtype != np.int8 or self.outer.type == "INT8":
            return inside
        if self.outer.type == "UINT8":
            return as_uint8(inside)
        assert self.quantization is not None  # codes are int8 only then
        return dequantize(inside, self.quantization)

    def reals(self, outputs: np.ndarray) -> np.ndarray:
        """Return what the outer tensor holds, as float32 values in the units of the Keras model."""
        quantization = self.quantization
        if outputs.dtype == np.uint8:
            outputs = as_int8(outputs)
        return outputs if outputs.dtype != np.int8 or quantization is None else dequantize(outputs, quantization)


def as_uint8(codes: np.ndarray) -> np.ndarray:
    """Return int8 codes as those of a uint8 tensor of the same scale."""
    return (codes.astype(np.int16) + UINT8_OFFSET).astype(np.uint8)


def as_int8(codes: np.ndarray) -> np.ndarray:
    """Return codes of a uint8 tensor as those of an int8 tensor of the same scale."""
    return (codes.astype(np.int16) - UINT8_OFFSET).astype(np.int8)


def inner_input(graph: Graph, index: int) -> int:
    """Return the tensor that the model's operators read of its input ``index``: what the QUANTIZE behind a float or
    uint8 input makes of it, if nothing else reads that, else ``index`` itself."""
    readers = [op for op in graph.operators if index in op.inputs]
    if len(readers) == 1 and changes_type(graph, readers[0], readers[0].inputs, readers[0].outputs):
        return readers[0].outputs[0]
    return index


def inner_output(graph: Graph, index: int) -> int:
    """Return the tensor from which a DEQUANTIZE or QUANTIZE makes the float or uint8 output ``index``, if one does,
    else ``index`` itself."""
    makers = [op for op in graph.operators if index in op.outputs]
    if len(makers) == 1 and changes_type(graph, makers[0], makers[0].outputs, makers[0].inputs):
        return makers[0].inputs[0]
    return index


def input_end(graph: Graph, index: int | None = None) -> End:
    """Return the model's input ``index``, by default its first. Raises :class:`ZoError` for a type that no command
    takes."""
    outer = graph.inputs[0] if index is None else index
    return _end(graph, outer, inner_input(graph, outer), "input")


def output_end(graph: Graph, index: int | None = None) -> End:
    """Return the model's output ``index``, by default its first; raises as :func:`input_end`."""
    outer = graph.outputs[0] if index is None else index
    return _end(graph, outer, inner_output(graph, outer), "output")


def _end(graph: Graph, outer: int, inner: int, role: str) -> End:
    tensor, inside = graph.tensors[outer], graph.tensors[inner]
    if tensor.type not in _DTYPES:
        raise ZoError(f"the model's {role} {described(tensor)}: {TO_INT8}")
    if tensor.type == "UINT8" and inner == outer:
        raise ZoError(f"the model's {role} {described(tensor)}, and not int8 inside: {TO_INT8}")
    return End(tensor, inside if inside.type == "INT8" and inside.quantization is not None else None)


def described(tensor: Tensor) -> str:
    """A tensor's name, type and shape, for messages."""
    return f"{tensor.name!r} is {tensor.type.lower()} {list(tensor.shape)}"
