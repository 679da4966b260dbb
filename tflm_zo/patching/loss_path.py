# SPDX-License-Identifier: Apache-2.0
"""Where a model's loss is taken: its logits, and the head that makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import builtin_code, schema, shape_of, tensor_name
from tflm_zo.model.layers import Layer, Quantization, quantization_of
from tflm_zo.ops.options import LOSS_CROSS_ENTROPY, LOSS_ENTROPY, LOSS_MEAN_SQUARED_ERROR

_KINDS = {"cross-entropy": LOSS_CROSS_ENTROPY, "mse": LOSS_MEAN_SQUARED_ERROR, "entropy": LOSS_ENTROPY}
LOSSES = ("auto", *_KINDS)

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
    # Walk back over what only changes the form of the result: the loss is taken of the int8 values before it.
    output = _before(tree, producer, int(graph.outputs[0]), (_OPS.DEQUANTIZE,))
    logits = _before(tree, producer, output, (_OPS.SOFTMAX, _OPS.LOGISTIC))
    if loss == "auto":
        loss = "mse" if logits == output else "cross-entropy"
    if loss == "mse":  # compares with the model's own output, the others with its logits
        logits = output
    tensor = graph.tensors[logits]
    quantization = quantization_of(tensor)
    if tensor.type != schema.TensorType.INT8 or quantization is None:
        raise ZoError(
            f"the model's output {tensor_name(tensor)!r} is not int8: convert the model to full int8 "
            "with `tflm-zo convert`"
        )
    shape = shape_of(tensor)
    outputs = int(np.prod(shape))
    if loss != "mse" and len(shape) > 1 and outputs != shape[-1]:
        raise ZoError(f"{loss} needs one vector of logits, but the output has shape {list(shape)}: use loss mse")
    return LossEnd(logits, quantization, outputs, _KINDS[loss], _head(tree, layers, logits))


def _before(tree: Any, producer: dict[int, Any], tensor: int, kinds: tuple[int, ...]) -> int:
    """Return what operators of these kinds, at the end of the way to ``tensor``, were given."""
    while tensor in producer and builtin_code(tree, producer[tensor]) in kinds:
        tensor = int(producer[tensor].inputs[0])
    return tensor


def _head(tree: Any, layers: list[Layer], logits: int) -> Layer | None:
    graph = tree.subgraphs[0]
    for layer in layers:
        plain = layer.fused_activation == schema.ActivationFunctionType.NONE
        # One row of features per pass: the closed form is an outer product of two vectors.
        features = int(np.prod(shape_of(graph.tensors[layer.input])))
        single = layer.weight_count == layer.outputs * features
        # The outer product is the whole gradient only of weights that no other layer uses.
        own = sum(other.weights == layer.weights for other in layers) == 1
        if layer.output == logits and layer.kind == "FULLY_CONNECTED" and plain and single and own:
            return layer
    return None
