# SPDX-License-Identifier: Apache-2.0
"""Whether a patched model's training ops fit their tensors and each other.

Each op is asked by its own code, that of its Prepare, whether it accepts its options and tensors: what passes here
is what a board or TFLM would accept. An op sees its own tensors only. That they are those of the other ops, that no
operator of the model writes them, and that what is written is memory and no constant, is looked up in the graph.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from tflm_zo.errors import ZoError
from tflm_zo.model.file import damage_reported, items, schema, shape_of
from tflm_zo.ops.compiled import library
from tflm_zo.ops.host_api import CheckedOp, CheckedTensor, CheckedType, TrainingOpKind
from tflm_zo.ops.layouts import (
    COMMAND_WORDS,
    REPORT_WORDS,
    LossInput,
    LossOutput,
    ModelOutput,
    NodeInput,
    ParameterInput,
)
from tflm_zo.ops.names import LOSS_OP, NODE_OP, OP_PREFIX, PARAMETER_OP, custom_code, custom_options
from tflm_zo.ops.option_layouts import LOSS_OPTIONS_MAGIC, NODE_OPTIONS_MAGIC, PARAMETER_OPTIONS_MAGIC
from tflm_zo.ops.options import (
    KIND_BIAS,
    KIND_DTYPES,
    KIND_MEAN_PREDICTION,
    KIND_RESIDUAL,
    KIND_WEIGHTS,
    ParameterOptions,
    check_version,
    unpack_loss,
    unpack_node,
    unpack_parameters,
)

_KINDS = {PARAMETER_OP: TrainingOpKind.PARAMETERS, LOSS_OP: TrainingOpKind.LOSS, NODE_OP: TrainingOpKind.NODE}
_TYPES = {
    schema.TensorType.INT8: CheckedType.INT8,
    schema.TensorType.INT32: CheckedType.INT32,
    schema.TensorType.UINT8: CheckedType.UINT8,
    schema.TensorType.INT16: CheckedType.INT16,
    schema.TensorType.FLOAT32: CheckedType.FLOAT32,
}
_MAGIC = {
    TrainingOpKind.PARAMETERS: PARAMETER_OPTIONS_MAGIC,
    TrainingOpKind.NODE: NODE_OPTIONS_MAGIC,
    TrainingOpKind.LOSS: LOSS_OPTIONS_MAGIC,
}
_MESSAGE_BYTES = 256


def check_training_ops(tree: Any) -> None:
    """Raise :class:`ZoError` if the training ops of a patched model's tree do not fit their tensors or each other."""
    with damage_reported():
        _Check(tree).run()


class _Check:
    """The training ops of one tree, and what each of its tensors is to them."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self._graph = tree.subgraphs[0]
        self._tensors = (CheckedTensor * len(self._graph.tensors))(
            *(
                CheckedTensor(_TYPES.get(tensor.type, CheckedType.OTHER), math.prod(shape_of(tensor)))
                for tensor in self._graph.tensors
            )
        )
        self._ops: dict[str, list[Any]] = {name: [] for name in _KINDS}
        self._producers: dict[int, list[Any]] = {}
        self._layer_inputs: set[int] = set()
        for operator in self._graph.operators:
            code = custom_code(tree, operator)
            for index in items(operator.outputs):
                self._producers.setdefault(index, []).append(operator)
            if code in _KINDS:
                self._ops[code].append(operator)
            elif code.startswith(OP_PREFIX):
                raise ZoError(f"the model has an unknown training op {code}: patch the original again")
            else:
                self._layer_inputs.update(items(operator.inputs))

    def run(self) -> None:
        """Raise :class:`ZoError` for what does not fit."""
        parameters, losses = self._ops[PARAMETER_OP], self._ops[LOSS_OP]
        others = self._tree.subgraphs[1:]
        if any(custom_code(self._tree, op) in _KINDS for graph in others for op in graph.operators or []):
            raise _misfit("there are some in another subgraph")
        _require(len(parameters) == 1 and parameters[0] is self._graph.operators[0], "their parameter op is not first")
        _require(len(losses) == 1, "there is not one loss op")
        for name, operators in self._ops.items():
            for operator in operators:
                self._check_op(_KINDS[name], operator)
        self._check_parameters(parameters[0])
        self._check_loss(losses[0])
        numbers = [unpack_node(custom_options(node)).node for node in self._ops[NODE_OP]]
        _require(numbers == list(range(self._parameters.node_count)), "node ops are not numbered in order")
        for node in self._ops[NODE_OP]:
            self._check_node(node)

    @cached_property
    def _parameters(self) -> ParameterOptions:
        return unpack_parameters(custom_options(self._ops[PARAMETER_OP][0]))

    def _check_op(self, kind: TrainingOpKind, operator: Any) -> None:
        """Let the op's own code say whether it accepts its options and tensors."""
        options, inputs, outputs = custom_options(operator), items(operator.inputs), items(operator.outputs)
        check_version(options, _MAGIC[kind])
        op = CheckedOp(
            kind=kind,
            tensors=self._tensors,
            tensor_count=len(self._tensors),
            inputs=(ctypes.c_int32 * len(inputs))(*inputs),
            input_count=len(inputs),
            outputs=(ctypes.c_int32 * len(outputs))(*outputs),
            output_count=len(outputs),
            options=ctypes.cast(ctypes.c_char_p(options), ctypes.c_void_p).value,
            option_bytes=len(options),
        )
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        if not library().tflm_zo_check_op(op, message, _MESSAGE_BYTES):
            raise ZoError(message.value.decode("utf-8", "replace"))  # which says what to do
        for index in inputs:
            _require(index < 0 or self._has_values(index), f"tensor {index} is given to one and never computed")

    def _has_values(self, index: int) -> bool:
        """Whether something gives a tensor its values. Operators stand in order: no later one does."""
        return (
            index in items(self._graph.inputs)
            or index in self._producers
            or bool(self._graph.tensors[index].isVariable)
            or self._is_constant(index)
        )

    def _is_constant(self, index: int) -> bool:
        return self._constant_bytes(index) > 0

    def _constant_bytes(self, index: int) -> int:
        data = self._tree.buffers[self._graph.tensors[index].buffer].data
        return 0 if data is None else len(data)

    def _is_state(self, index: int) -> bool:
        """Whether a tensor is memory that lasts, which training ops alone write."""
        ends = (*items(self._graph.inputs), *items(self._graph.outputs))
        variable = bool(self._graph.tensors[index].isVariable) and not self._is_constant(index)
        return variable and index not in self._producers and index not in ends

    def _check_parameters(self, operator: Any) -> None:
        inputs = items(operator.inputs)
        command, session = inputs[ParameterInput.COMMAND], inputs[ParameterInput.SESSION]
        graph_inputs = items(self._graph.inputs)
        _require(graph_inputs[-2] == command, "the command is no input of the model")
        _require(shape_of(self._graph.tensors[command]) == (COMMAND_WORDS,), "the command has another shape")
        _require(not self._is_constant(command) and command not in self._producers, "the command is no memory")
        _require(self._is_state(session), "the session is no memory")
        _require(not items(operator.outputs), "the parameter op has outputs")
        kinds = {}
        for entry in self._parameters.entries:
            variable = inputs[entry.variable_input]
            _require(self._is_state(variable) and variable not in kinds, "a parameter is no memory of its own")
            kinds[variable] = entry.kind
            if entry.moments_input >= 0:
                _require(self._is_state(inputs[entry.moments_input]), "a momentum is no memory")
            if entry.kind in (KIND_WEIGHTS, KIND_BIAS):
                initial = inputs[entry.initial_input]
                size = self._tensors[initial].elements * KIND_DTYPES[entry.kind].itemsize
                _require(self._constant_bytes(initial) == size, "initial values are no constant of their tensor's size")
                _require(variable in self._layer_inputs, "no layer computes with a parameter")
        for state in self._parameters.states:
            _require(self._is_state(inputs[state.input]), "an operator's state is no memory")
        self._session, self._kinds = session, kinds
        self._initial = {
            inputs[e.variable_input]: inputs[e.initial_input] for e in self._parameters.entries if e.initial_input >= 0
        }

    def _check_loss(self, operator: Any) -> None:
        inputs = items(operator.inputs)
        options = unpack_loss(custom_options(operator))

        def given(position: LossInput) -> int:
            return inputs[position] if position < len(inputs) else -1

        _require(len(inputs) == len(LossInput), "the loss op has another number of inputs")
        _require(given(LossInput.SESSION) == self._session, "ops have sessions of their own")
        target = items(self._graph.inputs)[-1]
        _require(given(LossInput.TARGET) == target and not self._is_constant(target), "the target is no input")
        self._outputs = items(operator.outputs)
        ends = items(self._graph.outputs)
        _require(len(ends) > 1 and ends[ModelOutput.REPORT_OUTPUT] == self._outputs[LossOutput.REPORT], "no report")
        # Hosts give TFLM arrays of these shapes.
        _require(
            shape_of(self._graph.tensors[self._outputs[LossOutput.REPORT]]) == (REPORT_WORDS,),
            "the report has another shape",
        )
        shape = shape_of(self._graph.tensors[target])
        _require(
            len(shape) > 0 if options.classes == 0 else shape == (options.positions,), "the target has another shape"
        )
        _require(0 <= options.output < len(ends) - 1, "the loss is of an output that the model has not")
        for output in self._outputs:
            alone = self._producers[output] == [operator] and not self._graph.tensors[output].isVariable
            _require(alone and not self._is_constant(output), "what the loss op computes is no memory of its own")
        for position, kind in (
            (LossInput.RESIDUAL, KIND_RESIDUAL),
            (LossInput.MEAN_PREDICTION, KIND_MEAN_PREDICTION),
        ):
            _require(given(position) < 0 or self._kinds.get(given(position)) == kind, "a loss op's state is no memory")
        if given(LossInput.RESIDUAL) >= 0:
            _require(self._kinds.get(given(LossInput.HEAD_WEIGHTS)) == KIND_WEIGHTS, "the head's weights are constant")
        if options.trains_bias:
            _require(self._kinds.get(given(LossInput.HEAD_BIAS)) == KIND_BIAS, "the head's bias is constant")
        _require(given(LossInput.LOGITS) in self._producers, "no layer computes the logits")

    def _check_node(self, operator: Any) -> None:
        inputs = items(operator.inputs)
        _require(inputs[NodeInput.SESSION] == self._session, "ops have sessions of their own")
        _require(not items(operator.outputs), "a node op has outputs")
        for variable, initial, kind in (
            (NodeInput.WEIGHTS, NodeInput.INITIAL_WEIGHTS, KIND_WEIGHTS),
            (NodeInput.BIAS, NodeInput.INITIAL_BIAS, KIND_BIAS),
        ):
            if inputs[variable] >= 0:
                fits = self._kinds.get(inputs[variable]) == kind
                fits = fits and self._initial[inputs[variable]] == inputs[initial]
                _require(fits, "a node op trains no parameter's tensor")
        _require(inputs[NodeInput.WEIGHTS] >= 0 or self._has_layer(inputs), "a node op stands behind no layer")
        accumulator = inputs[NodeInput.ACCUMULATOR]
        _require(accumulator < 0 or self._is_state(accumulator), "an accumulator is no memory")
        _require(inputs[NodeInput.LAYER_OUTPUT] in self._producers, "a node op stands behind no layer")
        gradient, report = inputs[NodeInput.FEATURE_GRADIENT], inputs[NodeInput.REPORT]
        if gradient >= 0:
            _require([report, gradient] == self._outputs, "a node op has another gradient than that of the loss op")

    def _has_layer(self, inputs: Sequence[int]) -> bool:
        """Whether the weights of a node that trains the bias alone are a layer's constant."""
        weights = inputs[NodeInput.INITIAL_WEIGHTS]
        return weights in self._layer_inputs and self._constant_bytes(weights) == self._tensors[weights].elements


def _require(fits: bool, problem: str) -> None:
    if not fits:
        raise _misfit(problem)


def _misfit(problem: str) -> ZoError:
    return ZoError(f"the model's training ops do not fit: {problem}: patch the original again")
