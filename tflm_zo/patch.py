# SPDX-License-Identifier: Apache-2.0
"""Patching: training ops and weights in the arena for any int8 ``.tflite``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.layers import Layer, Quantization, quantization_of, select, trainable_layers
from tflm_zo.model_file import (
    builtin_code,
    load_model,
    save_model,
    schema,
    shape_of,
    tensor_name,
)
from tflm_zo.op_options import (
    KIND_BIAS,
    KIND_RESIDUAL,
    KIND_WEIGHTS,
    LOSS_CROSS_ENTROPY,
    LOSS_MEAN_SQUARED_ERROR,
    LossOptions,
    ParameterEntry,
    pack_loss,
    pack_parameters,
)

PARAMETER_OP = "TFLM_ZO_PARAMETERS"
LOSS_OP = "TFLM_ZO_LOSS"
PREFIX = "zo/"

COMMAND_WORDS = 16
REPORT_WORDS = 8
SESSION_WORDS = 140  # without the settings
SETTING_WORDS = 2

LOSSES = ("auto", "cross-entropy", "mse")

# Codes that updates leave free at both ends of a perturbed weight's range: the largest sigma. Each channel of a
# symmetric quantization has a weight at +-127, so some weights always stay unperturbed; 4 codes are 3 % of the range.
WEIGHT_HEADROOM = 4
BIAS_HEADROOM = 1 << 20


@dataclass(frozen=True)
class _LossEnd:
    """Where the loss is taken: the int8 logits, and the layer that makes them if it has a closed form."""

    logits: int
    quantization: Quantization
    outputs: int
    kind: int
    head: Layer | None


def patch(model: bytes, trainable: str = "head", loss: str = "auto") -> bytes:
    """Return ``model`` with training ops and its trainable weights in the arena.

    ``model`` is any full int8 ``.tflite``; ``trainable`` is ``head`` (the last fully connected layer), ``all``, ``last:K``, ``bias`` or
    comma-separated layer names and globs; ``loss`` is ``cross-entropy`` (target: class index), ``mse`` (target:
    a vector like the output) or ``auto``: cross-entropy if the model ends in SOFTMAX or LOGISTIC, else mse.

    The result has the model's inputs and outputs first, then inputs ``zo/command`` (int32[16]) and ``zo/target``
    and output ``zo/report`` (int32[8]). Until it is trained it computes what ``model`` computes, byte for byte.
    Raises :class:`ZoError` if the model or a choice cannot be used.
    """
    if loss not in LOSSES:
        raise ZoError(f"loss {loss!r} is unknown: choose one of {', '.join(LOSSES)}")
    tree = load_model(model)
    if is_patched(tree):
        raise ZoError("the model is patched already: patch the original model instead")
    layers = trainable_layers(tree)
    selection = select(tree, layers, trainable)
    end = _loss_end(tree, layers, loss)
    _Patcher(tree, layers, selection.weights, selection.biases, end).run()
    return save_model(tree)


def is_patched(tree: Any) -> bool:
    """Whether a model carries the training ops."""
    return any(_custom_code(code) == PARAMETER_OP for code in tree.operatorCodes)


def _custom_code(code: Any) -> str:
    name = code.customCode
    return name.decode() if isinstance(name, bytes) else (name or "")


def _loss_end(tree: Any, layers: list[Layer], loss: str) -> _LossEnd:
    graph = tree.subgraphs[0]
    if len(graph.outputs) != 1:
        raise ZoError(
            f"the model has {len(graph.outputs)} outputs; training needs exactly one to take the loss of"
        )
    producer = {int(o): op for op in graph.operators for o in op.outputs}
    ops = schema.BuiltinOperator
    closing = (ops.SOFTMAX, ops.LOGISTIC)
    logits = int(graph.outputs[0])
    probability_end = False
    # Walk back over what only changes the form of the result: the loss is taken of the int8 values before it.
    while logits in producer and builtin_code(tree, producer[logits]) in (*closing, ops.DEQUANTIZE):
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
        raise ZoError(
            f"cross-entropy needs one vector of logits, but the output has shape {list(shape)}: "
            "use loss mse"
        )
    head = None
    for layer in layers:
        plain = layer.fused_activation == schema.ActivationFunctionType.NONE
        # One row of features per pass: the closed form is an outer product of two vectors.
        single = layer.weight_count // layer.outputs == int(
            np.prod(shape_of(graph.tensors[layer.input]))
        )
        if layer.output == logits and layer.kind == "FULLY_CONNECTED" and plain and single:
            head = layer
    kind = LOSS_CROSS_ENTROPY if loss == "cross-entropy" else LOSS_MEAN_SQUARED_ERROR
    return _LossEnd(logits, quantization, outputs, kind, head)


class _Patcher:
    """Edits one model tree in place."""

    def __init__(
        self,
        tree: Any,
        layers: list[Layer],
        weights: frozenset[int],
        biases: frozenset[int],
        end: _LossEnd,
    ) -> None:
        self.tree = tree
        self.graph = tree.subgraphs[0]
        self.layers = layers
        self.weights = weights
        self.biases = biases
        self.end = end
        self.entries: list[ParameterEntry] = []
        self.factors: list[np.ndarray] = []
        self.parameter_inputs: list[int] = []

    def run(self) -> None:
        command = self._add_tensor("command", schema.TensorType.INT32, (COMMAND_WORDS,))
        target = self._add_target()
        report = self._add_tensor("report", schema.TensorType.INT32, (REPORT_WORDS,))
        session = self._add_tensor("session", schema.TensorType.INT32, (0,), variable=True)
        self.parameter_inputs = [command, session]
        moved: set[int] = set()
        for layer in self.layers:
            # Layers may share a tensor; it is one parameter then.
            if layer.ordinal in self.weights and layer.weights not in moved:
                moved.add(layer.weights)
                self._add_parameter(layer, layer.weights, KIND_WEIGHTS, layer.weight_scales)
            if layer.ordinal in self.biases and layer.bias not in moved:
                moved.add(layer.bias)
                self._add_parameter(layer, layer.bias, KIND_BIAS, layer.accumulator_scales)
        residual = self._add_residual(moved)
        words = SESSION_WORDS + SETTING_WORDS * len(self.entries)
        self.graph.tensors[session].shape = np.array([words], dtype=np.int32)

        factors = np.concatenate(self.factors) if self.factors else np.zeros(0)
        first = self._operator(
            PARAMETER_OP, self.parameter_inputs, [], pack_parameters(self.entries, factors)
        )
        last = self._operator(
            LOSS_OP,
            [self.end.logits, target, session, *self._head_inputs(), residual],
            [report],
            pack_loss(self._loss_options()),
        )
        self.graph.operators = [first, *self.graph.operators, last]
        self.graph.inputs = np.array([*self.graph.inputs, command, target], dtype=np.int32)
        self.graph.outputs = np.array([*self.graph.outputs, report], dtype=np.int32)

    def _add_target(self) -> int:
        if self.end.kind == LOSS_CROSS_ENTROPY:
            return self._add_tensor("target", schema.TensorType.INT32, (1,))
        logits = self.graph.tensors[self.end.logits]
        index = self._add_tensor("target", schema.TensorType.INT8, shape_of(logits))
        self.graph.tensors[index].quantization = logits.quantization
        return index

    def _add_tensor(
        self, name: str, kind: int, shape: tuple[int, ...], *, buffer: int = 0, variable: bool = False
    ) -> int:
        tensor = schema.TensorT()
        tensor.name = PREFIX + name
        tensor.type = kind
        tensor.shape = np.array(shape, dtype=np.int32)
        tensor.buffer = buffer
        tensor.isVariable = variable
        tensor.hasRank = True
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _add_parameter(self, layer: Layer, index: int, kind: int, scales: np.ndarray) -> None:
        """Turn a constant into a variable tensor; its constant stays in flash as the initial value."""
        tensor = self.graph.tensors[index]
        role = "bias" if kind == KIND_BIAS else "weights"
        initial = self._add_tensor(
            f"initial/{layer.name}/{role}", tensor.type, shape_of(tensor), buffer=tensor.buffer
        )
        # Buffer 0 is empty by the schema's convention: TFLM gives the tensor memory in the arena.
        tensor.buffer = 0
        tensor.isVariable = True
        self.entries.append(
            ParameterEntry(
                kind=kind,
                layer=layer.ordinal,
                variable_input=len(self.parameter_inputs),
                initial_input=len(self.parameter_inputs) + 1,
                channels=len(scales),
                channel_stride=1 if kind == KIND_BIAS else layer.channel_stride,
                headroom=self._headroom(layer, kind),
                factor_offset=sum(f.size for f in self.factors),
            )
        )
        self.factors.append((1.0 / np.square(scales)).astype(np.float32))
        self.parameter_inputs += [index, initial]

    def _headroom(self, layer: Layer, kind: int) -> int:
        if kind == KIND_BIAS:
            return BIAS_HEADROOM
        # The exact head is never perturbed, so it may use its whole range.
        exact = self.end.head is not None and layer.weights == self.end.head.weights
        return 0 if exact else WEIGHT_HEADROOM

    def _add_residual(self, moved: set[int]) -> int:
        head = self.end.head
        if head is None or head.weights not in moved:
            return -1
        index = self._add_tensor(
            "residual", schema.TensorType.INT8, (head.weight_count,), variable=True
        )
        self.entries.append(
            ParameterEntry(
                KIND_RESIDUAL, head.ordinal, len(self.parameter_inputs), -1, 1, 1, 0, 0
            )
        )
        self.parameter_inputs.append(index)
        return index

    def _head_inputs(self) -> list[int]:
        head = self.end.head
        return [-1, -1, -1] if head is None else [head.input, head.weights, head.bias]

    def _loss_options(self) -> LossOptions:
        end, head = self.end, self.end.head
        empty = np.zeros(0, dtype=np.float32)
        if head is not None:
            ones = np.ones(end.outputs)
            accumulator_scales = head.accumulator_scales * ones
            weight_factors = head.input_quantization.scale / (head.weight_scales * ones)
        return LossOptions(
            kind=end.kind,
            outputs=end.outputs,
            scale=end.quantization.scale,
            zero_point=end.quantization.zero_point,
            # Int8 logits would hide the small differences between perturbed losses. Over the many outputs of a
            # regression the rounding averages out, and recomputing the layer would cost as much as running it.
            high_resolution=head is not None and end.kind == LOSS_CROSS_ENTROPY,
            features=0 if head is None else head.weight_count // head.outputs,
            feature_zero_point=0 if head is None else head.input_quantization.zero_point,
            feature_scale=0.0 if head is None else head.input_quantization.scale,
            headroom=0,
            accumulator_scales=empty if head is None else accumulator_scales,
            weight_factors=empty if head is None else weight_factors,
        )

    def _operator(self, name: str, inputs: list[int], outputs: list[int], options: bytes) -> Any:
        code = schema.OperatorCodeT()
        code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.builtinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = name
        code.version = 1
        self.tree.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.tree.operatorCodes) - 1
        operator.inputs = np.array(inputs, dtype=np.int32)
        operator.outputs = np.array(outputs, dtype=np.int32)
        operator.customOptions = np.frombuffer(options, dtype=np.uint8)
        return operator
