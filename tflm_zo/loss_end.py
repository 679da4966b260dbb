# SPDX-License-Identifier: Apache-2.0
"""Where a model's loss is taken: its logits, and the head that makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.layers import Layer, Quantization, quantization_of
from tflm_zo.model_file import builtin_code, schema, shape_of, tensor_name
from tflm_zo.op_options import LOSS_CROSS_ENTROPY, LOSS_MEAN_SQUARED_ERROR

LOSSES = ("auto", "cross-entropy", "mse")

_OPS = schema.BuiltinOperator


@dataclass(frozen=True)
class LossEnd:
    """The int8 logits (a tensor index) and the layer that makes them, if it has a closed form."""

    logits: int
    quantization: Quantization
    outputs: int
    kind: int
    head: Layer | None


def find_loss_end(tree: Any, layers: list[Layer], loss: str) -> LossEnd:
    """Return where the loss named ``loss`` (one of :data:`LOSSES`) is taken.

    Raises :class:`ZoError` if the model has not exactly one int8 output of a fitting shape.
    """
    if loss not in LOSSES:
        raise ZoError(f"loss {loss!r} is unknown: choose one of {', '.join(LOSSES)}")
    graph = tree.subgraphs[0]
    if len(graph.outputs) != 1:
        raise ZoError(f"the model has {len(graph.outputs)} outputs; training needs exactly one to take the loss of")
    producer = {int(o): op for op in graph.operators for o in op.outputs}
    closing = (_OPS.SOFTMAX, _OPS.LOGISTIC)
    logits = int(graph.outputs[0])
    probability_end = False
    # Walk back over what only changes the form of the result: the loss is taken of the int8 values before it.
    while logits in producer and builtin_code(tree, producer[logits]) in (*closing, _OPS.DEQUANTIZE):
        probability_end |= builtin_code(tree, producer[logits]) in closing
        logits = int(producer[logits].inputs[0])
    tensor = graph.tensors[logits]
    quantization = quantization_of(tensor)
    if tensor.type != schema.TensorType.INT8 or quantization is None:
        raise ZoError(
            f"the model's output {tensor_name(tensor)!r} is not int8: convert the model to full int8 "
            "with `tflm-zo convert`"
        )
    shape = shape_of(tensor)
    outputs = int(np.prod(shape))
    if loss == "auto":
        loss = "cross-entropy" if probability_end else "mse"
    if loss == "cross-entropy" and len(shape) > 1 and outputs != shape[-1]:
        raise ZoError(f"cross-entropy needs one vector of logits, but the output has shape {list(shape)}: use loss mse")
    kind = LOSS_CROSS_ENTROPY if loss == "cross-entropy" else LOSS_MEAN_SQUARED_ERROR
    return LossEnd(logits, quantization, outputs, kind, _head(tree, layers, logits))


def _head(tree: Any, layers: list[Layer], logits: int) -> Layer | None:
    graph = tree.subgraphs[0]
    for layer in layers:
        plain = layer.fused_activation == schema.ActivationFunctionType.NONE
        # One row of features per pass: the closed form is an outer product of two vectors.
        features = int(np.prod(shape_of(graph.tensors[layer.input])))
        single = layer.weight_count == layer.outputs * features
        if layer.output == logits and layer.kind == "FULLY_CONNECTED" and plain and single:
            return layer
    return None
