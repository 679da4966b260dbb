# SPDX-License-Identifier: Apache-2.0
"""TFLite flatbuffers as objects, and back to bytes."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator
from typing import Any

import flatbuffers
import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.schema import schema

FILE_IDENTIFIER = b"TFL3"
# TFLM's kernels, CMSIS-NN's above all, read constant buffers in place with vector loads.
BUFFER_ALIGNMENT = 16
DAMAGED = "the TFLite model is truncated or damaged: copy or convert it again"


_BUILTIN_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


class _AligningBuilder(flatbuffers.Builder):
    """Aligns byte vectors like the ``force_align`` of the schema, which Python's generator leaves out."""

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        if x.dtype != np.uint8:
            return super().CreateNumpyVector(x)
        self.StartVector(1, x.size, BUFFER_ALIGNMENT)
        self.head: int = self.head - x.size
        self.Bytes[self.head : self.head + x.size] = x.tobytes(order="C")
        self.vectorNumElems = x.size
        return self.EndVector()


def load_model(data: bytes) -> Any:
    """Return the ``ModelT`` of a ``.tflite`` file's bytes.

    Raises :class:`ZoError` if the bytes are not a whole TFLite flatbuffer.
    """
    data = bytes(data)
    if len(data) < 8 or data[4:8] != FILE_IDENTIFIER:
        raise ZoError(
            "not a TFLite model (no TFL3 identifier): give a .tflite file or C source that holds it as an array, or "
            "convert a Keras model with `tflm-zo convert`"
        )
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    except (struct.error, IndexError, ValueError, TypeError, OverflowError) as error:
        raise ZoError(DAMAGED) from error
    _check_whole(model)
    return model


@contextlib.contextmanager
def damage_reported() -> Iterator[None]:
    """Around work on a loaded model: parts of a damaged file that contradict each other end in a :class:`ZoError`."""
    try:
        yield
    except ZoError:
        raise
    except (struct.error, LookupError, ArithmeticError, ValueError, TypeError, AttributeError) as error:
        raise ZoError(f"{DAMAGED} ({error})") from error


def _check_whole(model: Any) -> None:
    """A truncated file may still parse, since tables lie anywhere; the pieces must fit together."""
    damaged = ZoError(DAMAGED)
    if not model.subgraphs or not model.buffers or not model.operatorCodes:
        raise damaged
    for graph in model.subgraphs:
        if graph.tensors is None or graph.inputs is None or graph.outputs is None:
            raise damaged
        count = len(graph.tensors)
        for tensor in graph.tensors:
            if not 0 <= tensor.buffer < len(model.buffers):
                raise damaged
            sizes = items(tensor.shape)
            if any(size < 0 for size in sizes) or math.prod(sizes) >= 1 << 31:
                raise damaged
        if any(not 0 <= i < count for i in (*items(graph.inputs), *items(graph.outputs))):
            raise damaged
        made: set[int] = set()
        for operator in reversed(graph.operators or []):
            # Operators stand in the order of execution: none reads what itself or a later one makes.
            made.update(items(operator.outputs))
            if made.intersection(items(operator.inputs)) - {-1}:
                raise damaged
            indices = [*items(operator.inputs), *items(operator.outputs)]
            if any(not -1 <= i < count for i in indices):
                raise damaged
            if not 0 <= operator.opcodeIndex < len(model.operatorCodes):
                raise damaged


def items(vector: Any) -> list[int]:
    """Return the indices of a vector in a model, none where the model leaves it out."""
    return [] if vector is None else [int(v) for v in vector]


def save_model(model: Any) -> bytes:
    """Return the bytes of a ``ModelT``; constant buffers are aligned to 16 bytes."""
    builder = _AligningBuilder(1024)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def builtin_code(model: Any, operator: Any) -> int:
    """Return the ``BuiltinOperator`` of an operator (old files keep it in a field of one byte)."""
    code = model.operatorCodes[operator.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def builtin_name(code: int) -> str:
    """Return the schema's name of a ``BuiltinOperator``, for messages."""
    return _BUILTIN_NAMES.get(code, f"operator {code}")


def tensor_name(tensor: Any) -> str:
    """Return a tensor's name as text."""
    return text_of(tensor.name)


def text_of(name: bytes | str | None) -> str:
    """Return a name in a model's tree as text, '' if there is none."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name or ""


def constant(model: Any, tensor: Any, dtype: Any) -> np.ndarray | None:
    """Return a constant tensor's values, flat, as ``dtype``; ``None`` if it is not constant."""
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    return np.asarray(data, dtype=np.uint8).view(np.dtype(dtype).newbyteorder("<")).astype(dtype)


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Return a tensor's shape."""
    return tuple(items(tensor.shape))
