# SPDX-License-Identifier: Apache-2.0
"""Why a model cannot become int8, and in which Keras layer that lies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tflm_zo.conversion.keras_support import cause
from tflm_zo.model.file import builtin_code

_FLOAT_TYPES = ("FLOAT32", "FLOAT16", "FLOAT64", "BFLOAT16", "COMPLEX64", "COMPLEX128")


@dataclass(frozen=True)
class Failure:
    """Why a model cannot become int8, and where."""

    reason: str
    names: tuple[str, ...]  # Names of ops and tensors by which the layer is found, the most specific first.


def _operators(content: bytes) -> Iterator[tuple[str, bool, list[Any], list[str]]]:
    """Yield (op name, is custom, tensors, output names) of every operator, in order."""
    from tensorflow.lite.python import schema_py_generated as schema

    op_names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for subgraph in model.subgraphs:
        for operator in subgraph.operators or ():
            code = model.operatorCodes[operator.opcodeIndex]
            builtin = builtin_code(model, operator)
            custom = code.customCode is not None
            name = code.customCode.decode() if custom else op_names.get(builtin, str(builtin))
            outputs = [subgraph.tensors[index] for index in operator.outputs]
            inputs = [subgraph.tensors[index] for index in operator.inputs if index >= 0]
            yield (
                name,
                custom,
                inputs + outputs,
                [tensor.name.decode() for tensor in outputs + inputs],
            )


def find_unquantized(content: bytes) -> Failure | None:
    """The first operator that is not int8, or whose shapes are not fixed; None if there is none."""
    from tensorflow.lite.python import schema_py_generated as schema

    type_names = {v: k for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
    border = None
    for name, custom, tensors, names in _operators(content):
        if custom:
            return Failure(f"TFLite has no builtin op for {name}", tuple(names))
        for tensor in tensors:
            if type_names.get(tensor.type) in _FLOAT_TYPES:
                # Conversions to and from float surround the op that is the cause.
                if name in ("QUANTIZE", "DEQUANTIZE"):
                    border = border or Failure("a float value is left", tuple(names))
                    break
                reason = f"TFLite has no int8 version of op {name}"
                return Failure(reason, tuple(names))
            if tensor.shapeSignature is not None and any(d < 0 for d in tensor.shapeSignature):
                return Failure(f"op {name} has a shape that is not fixed", tuple(names))
    return border


def explain(text: str, content: bytes) -> Failure:
    """Turn the output of the converter, or of TFLM on ``content``, into a reason and a place."""
    if content:
        missing = re.search(r"find op for builtin opcode '(\w+)'", text)
        failed = re.search(r"Node (\w+) \(number (\d+)", text)
        for index, (name, _, _, names) in enumerate(_operators(content)):
            if missing and name == missing[1]:
                return Failure(f"TFLM has no op {name}", tuple(names))
            if failed and index == int(failed[2]):
                return Failure(f"TFLM cannot run its op {name} in int8", tuple(names))
        return Failure(f"TFLM cannot run the result: {cause(text)}", ())
    # The compiler marks the place as loc("name") or as loc(fused["Op:", "name"]).
    places = [name for group in re.findall(r"loc\(([^\n]*)", text) for name in _quoted(group)]
    needs = re.search(r"'(?:tf|tfl)\.(\w+)' op is neither a custom op nor a flex op", text)
    flex = re.search(r"(?:Flex ops|Custom ops): ([\w, ]+)", text)
    quantize = re.search(r"not yet supported for op: '?(\w+)", text)
    if needs or flex:
        op = needs[1] if needs else flex[1].strip()  # type: ignore[index]
        return Failure(f"TFLite has no builtin op for {op}", tuple(places))
    if quantize:
        return Failure(f"TFLite has no int8 version of op {quantize[1]}", tuple(places))
    return Failure(f"the TensorFlow converter says: {cause(text)}", tuple(places))


def _quoted(text: str) -> list[str]:
    names = [name.split("@")[0] for name in re.findall(r'"([^"]+)"', text)]
    return [name for name in names if not name.endswith(":")]


def layer_of(model: Any, names: Sequence[str], scopes: Mapping[str, str], output_origin: str) -> str | None:
    """The Keras layer that has made one of the nodes ``names``, as a phrase for a message.

    ``scopes``: names of layers by the scopes of their nodes.
    """
    layers = {layer.name: layer for layer in model._flatten_layers(include_self=False)}
    for joined in names:
        # TFLite joins the names of fused ops by ';', and calls the model's output Identity.
        for name in [output_origin] if joined.startswith("Identity") else joined.split(";"):
            steps = name.split("/")
            around = ("/".join(steps[: depth + 1]) for depth in range(len(steps)))
            path = [scopes[scope] for scope in around if scope in scopes]
            if path:
                return phrase("/".join(path), layers[path[-1]])
    return None


def phrase(name: str, operation: Any) -> str:
    """Return how a message calls the layer ``operation``."""
    return f"layer '{name}' ({type(operation).__name__})"
