# SPDX-License-Identifier: Apache-2.0
"""Adding training ops to a model's tree, and moving its trainable weights into the arena."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from tflm_zo.model.activation import activation_range
from tflm_zo.model.file import schema, shape_of
from tflm_zo.model.graph import read_operator, read_tensor
from tflm_zo.model.layers import Layer
from tflm_zo.model.quantization import INT8_MAX, INT8_MIN, quantization_of
from tflm_zo.model.state import StateTensor
from tflm_zo.ops.channel_statistics import ChannelStatistics
from tflm_zo.ops.layouts import COMMAND_WORDS, REPORT_WORDS, LossInput, LossOutput, NodeInput, ParameterInput
from tflm_zo.ops.names import INITIAL, LOSS_OP, NODE_OP, PARAMETER_OP, PREFIX, moments_words, session_words
from tflm_zo.ops.options import (
    KIND_BIAS,
    KIND_MEAN_PREDICTION,
    KIND_RESIDUAL,
    KIND_WEIGHTS,
    LOSS_ENTROPY,
    LOSS_MEAN_SQUARED_ERROR,
    LossOptions,
    NodeOptions,
    ParameterEntry,
    ParameterOptions,
    Reference,
    StateEntry,
    pack_loss,
    pack_node,
    pack_parameters,
)
from tflm_zo.patching import adapter as input_adapter
from tflm_zo.patching.layer_shape import layer_shape
from tflm_zo.patching.loss_path import ClosedForm, LossEnd
from tflm_zo.patching.selection import Selection
from tflm_zo.patching.tree_editor import TreeEditor, give_zero_point

# Codes that updates leave free at both ends of a perturbed weight's range: the largest sigma. Each channel of a
# symmetric quantization has a weight at +-127, so some weights always stay unperturbed; 4 codes are 3 % of the range.
WEIGHT_HEADROOM = 4
BIAS_HEADROOM = 1 << 20

_Input = TypeVar("_Input", bound=enum.IntEnum)


def by_position(tensors: Mapping[_Input, int], positions: type[_Input]) -> list[int]:
    """Return an op's inputs in the order of its ``positions``, -1 for those that are not among ``tensors``."""
    return [tensors.get(position, -1) for position in positions]


class Patcher:
    """Edits one model tree in place; the arguments are what :func:`tflm_zo.patch` has found in it."""

    def __init__(
        self,
        tree: Any,
        layers: list[Layer],
        selection: Selection,
        end: LossEnd,
        closed: list[ClosedForm],
        *,
        accumulate: bool,
        reference: ChannelStatistics | None,
    ) -> None:
        self.tree = tree
        self.graph = tree.subgraphs[0]
        self.editor = TreeEditor(tree)
        self.layers = layers
        self.selection = selection
        self.end = end
        self.accumulate = accumulate
        self.reference = reference
        self.initial: dict[int, int] = {}  # of a moved tensor: the constant with its initial values
        self.entries: list[ParameterEntry] = []
        self.factors: list[np.ndarray] = []
        self.parameter_inputs: list[int] = []
        # A gradient in closed form must exist for all layers that share a tensor, or it is not the gradient.
        self.closed = [f for f in closed if self._trained_alone(f.layer)]
        trained_head = end.head is not None and self._trained_alone(end.head)
        self.exact_head = end.head if trained_head else None

    def _trained_alone(self, layer: Layer) -> bool:
        """Whether the layer is trained, its weights or else its bias, by tensors that no other layer uses."""
        users = [o for o in self.layers if o.weights == layer.weights]
        if not self._trains_weights(layer):
            users = [o for o in self.layers if o.bias == layer.bias]
        return layer.ordinal in self.selection.weights | self.selection.biases and len(users) == 1

    def _trains_weights(self, layer: Layer) -> bool:
        return layer.ordinal in self.selection.weights

    def run(self, states: tuple[StateTensor, ...] = ()) -> None:
        """Add the ops, their tensors, and the model's new inputs and output; ``states`` are cleared in each pass."""
        command = self.editor.add_tensor("command", schema.TensorType.INT32, (COMMAND_WORDS,))
        target = self._add_target()
        report = self.editor.add_tensor("report", schema.TensorType.INT32, (REPORT_WORDS,))
        session = self.editor.add_tensor("session", schema.TensorType.INT32, (0,), variable=True)
        self.parameter_inputs = by_position(
            {ParameterInput.COMMAND: command, ParameterInput.SESSION: session}, ParameterInput
        )
        for layer in self.layers:
            # Layers may share a tensor; it is one parameter then.
            if layer.ordinal in self.selection.weights and layer.weights not in self.initial:
                self._add_parameter(layer, layer.weights, KIND_WEIGHTS, layer.weight_scales)
            if layer.ordinal in self.selection.biases and layer.bias not in self.initial:
                self._add_parameter(layer, layer.bias, KIND_BIAS, layer.accumulator_scales)
        residual = self._add_residual()
        mean = self._add_mean_prediction()

        loss_outputs = {LossOutput.REPORT: report}
        feature_gradient = -1
        if self.closed:
            features = (self._features() * self.end.positions,)
            feature_gradient = self.editor.add_tensor("feature_gradient", schema.TensorType.FLOAT32, features)
            loss_outputs[LossOutput.FEATURE_GRADIENT] = feature_gradient
        body, nodes = self._with_nodes(session)
        after_loss = []
        for form in self.closed:
            after_loss.append(self._node(form.layer, nodes, session, form, feature_gradient, report))
            nodes += 1
        words = session_words(len(self.entries), nodes)
        self.graph.tensors[session].shape = np.array([words], dtype=np.int32)

        factors = np.concatenate(self.factors) if self.factors else np.zeros(0)
        options = ParameterOptions(tuple(self.entries), nodes, factors, self._reference(), self._cleared(states))
        first = self.editor.operator(PARAMETER_OP, self.parameter_inputs, [], pack_parameters(options))
        loss_inputs = {
            LossInput.LOGITS: self.end.logits,
            LossInput.TARGET: target,
            LossInput.SESSION: session,
            LossInput.RESIDUAL: residual,
            LossInput.MEAN_PREDICTION: mean,
            **self._head_inputs(),
        }
        last = self.editor.operator(
            LOSS_OP,
            by_position(loss_inputs, LossInput),
            [loss_outputs[output] for output in sorted(loss_outputs)],
            pack_loss(self._loss_options()),
        )
        self.graph.operators = [first, *body, last, *after_loss]
        self.graph.inputs = np.array([*self.graph.inputs, command, target], dtype=np.int32)
        others = [int(i) for i in self.graph.outputs]
        trained = others.pop(self.end.output)
        self.graph.outputs = np.array([trained, report, *others], dtype=np.int32)

    def _cleared(self, states: tuple[StateTensor, ...]) -> tuple[StateEntry, ...]:
        first = len(self.parameter_inputs)
        self.parameter_inputs += [state.index for state in states]
        return tuple(StateEntry(first + i, state.bytes, state.fill) for i, state in enumerate(states))

    def _reference(self) -> Reference | None:
        if self.reference is None:
            return None
        adapter = next(layer for layer in self.layers if layer.name == input_adapter.NAME)
        gains, offsets = (
            next(i for i, e in enumerate(self.entries) if (e.layer, e.kind) == (adapter.ordinal, kind))
            for kind in (KIND_WEIGHTS, KIND_BIAS)
        )
        quantization = quantization_of(self.graph.tensors[int(self.graph.inputs[0])])
        assert quantization is not None  # the adapter needs an int8 input
        zero = quantization.zero_point
        # A prepared model's adapter has a gain in its scales, on top of that in its codes.
        ahead = input_adapter.UNIT * adapter.weight_scales
        mean = (zero + (self.reference.mean - zero) / ahead).astype(np.float32)
        spread = (self.reference.spread / ahead).astype(np.float32)
        return Reference(mean, spread, zero, gains, offsets)

    def _with_nodes(self, session: int) -> tuple[list[Any], int]:
        """The model's operators, each layer that can be trained by its output followed by its node op."""
        by_operator = {
            layer.operator_index: layer
            for layer in self.layers
            if self._trained_alone(layer)
            and layer is not self.exact_head
            and layer.name != input_adapter.NAME
            and layer.groups == 1  # the node op knows no others: these are trained by their weights alone
        }
        body: list[Any] = []
        nodes = 0
        for index, operator in enumerate(self.graph.operators):
            body.append(operator)
            if index in by_operator:
                body.append(self._node(by_operator[index], nodes, session, None, -1, -1))
                nodes += 1
        return body, nodes

    def _node(
        self,
        layer: Layer,
        number: int,
        session: int,
        form: ClosedForm | None,
        feature_gradient: int,
        report: int,
    ) -> Any:
        shape = layer_shape(self.tree, layer)
        mask = layer.output if form is None else form.mask
        low, high = self._saturation(mask)
        quantization = quantization_of(self.graph.tensors[layer.output])
        assert quantization is not None  # trainable_layers has checked it
        options = NodeOptions(
            node=number,
            shape=shape,
            input_zero_point=layer.input_quantization.zero_point,
            activation_min=low,
            activation_max=high,
            headroom=self._headroom(layer, KIND_WEIGHTS),
            bias_headroom=BIAS_HEADROOM,
            inverse_output_scale=1.0 / quantization.scale,
            window_height=0 if form is None else form.window_height,
            window_width=0 if form is None else form.window_width,
            pooled_width=0 if form is None else form.pooled_width,
            weight_factors=layer.input_quantization.scale / layer.weight_scales,
            bias_factors=1.0 / layer.accumulator_scales,
        )
        trains_weights = self._trains_weights(layer)
        accumulator = -1
        if self.accumulate:
            count = layer.outputs + (layer.weight_count if trains_weights else 0)
            accumulator = self.editor.add_tensor(
                f"accumulator/{number}", schema.TensorType.FLOAT32, (count,), variable=True
            )
        inputs = {
            NodeInput.SESSION: session,
            NodeInput.LAYER_OUTPUT: mask,
            NodeInput.BIAS: layer.bias,
            NodeInput.INITIAL_BIAS: self.initial.get(layer.bias, -1),
            NodeInput.FEATURE_GRADIENT: feature_gradient,
            NodeInput.ACCUMULATOR: accumulator,
            NodeInput.REPORT: report,
        }
        # Of a layer whose weights stay in flash neither these nor the input they are multiplied with are needed.
        if trains_weights:
            inputs[NodeInput.LAYER_INPUT] = layer.input
            inputs[NodeInput.WEIGHTS] = layer.weights
            inputs[NodeInput.INITIAL_WEIGHTS] = self.initial.get(layer.weights, -1)
        else:
            inputs[NodeInput.INITIAL_WEIGHTS] = layer.weights
        return self.editor.operator(NODE_OP, by_position(inputs, NodeInput), [], pack_node(options))

    def _saturation(self, index: int) -> tuple[int, int]:
        """The codes at which what an operator computes saturates."""
        quantization = read_tensor(self.tree, index).quantization
        if quantization is None:
            return INT8_MIN, INT8_MAX
        producer = next(i for i, op in enumerate(self.graph.operators) if index in op.outputs)
        activation = read_operator(self.tree, producer).activation
        return activation_range(activation, quantization.scale, quantization.zero_point)

    def _features(self) -> int:
        head = self.end.head
        return 0 if head is None else head.weight_count // head.outputs

    def _add_target(self) -> int:
        if self.end.kind != LOSS_MEAN_SQUARED_ERROR:
            return self.editor.add_tensor("target", schema.TensorType.INT32, (self.end.positions,))
        logits = self.graph.tensors[self.end.logits]
        index = self.editor.add_tensor("target", schema.TensorType.INT8, self.end.shape)
        self.graph.tensors[index].quantization = logits.quantization
        return index

    def _add_parameter(self, layer: Layer, index: int, kind: int, scales: np.ndarray) -> None:
        """Turn a constant into a variable tensor; its constant stays in flash as the initial value."""
        tensor = self.graph.tensors[index]
        role = "bias" if kind == KIND_BIAS else "weights"
        name = f"{INITIAL.removeprefix(PREFIX)}{layer.name}/{role}"
        initial = self.editor.add_tensor(name, tensor.type, shape_of(tensor), buffer=tensor.buffer)
        self.initial[index] = initial
        # Buffer 0 is empty by the schema's convention: TFLM gives the tensor memory in the arena.
        tensor.buffer = 0
        tensor.isVariable = True
        give_zero_point(tensor)
        variable_input = len(self.parameter_inputs)
        self.parameter_inputs += [index, initial]
        moments = -1
        if layer.name == input_adapter.NAME:
            moments = len(self.parameter_inputs)
            words = moments_words(int(np.prod(shape_of(tensor))))
            self.parameter_inputs.append(
                self.editor.add_tensor(
                    f"moments/{layer.name}/{role}", schema.TensorType.FLOAT32, (words,), variable=True
                )
            )
        self.entries.append(
            ParameterEntry(
                kind=kind,
                layer=layer.ordinal,
                variable_input=variable_input,
                initial_input=variable_input + 1,
                channels=layer.outputs,
                channel_stride=1 if kind == KIND_BIAS else layer.channel_stride,
                headroom=self._headroom(layer, kind),
                exact=int(layer is self.exact_head or any(layer is f.layer for f in self.closed)),
                moments_input=moments,
                factor_offset=sum(f.size for f in self.factors),
                factor_count=len(scales),
            )
        )
        self.factors.append((1.0 / np.square(scales)).astype(np.float32))

    def _headroom(self, layer: Layer, kind: int) -> int:
        if kind == KIND_BIAS:
            return BIAS_HEADROOM
        # The exact head is never perturbed, so it may use its whole range.
        return 0 if layer is self.exact_head else WEIGHT_HEADROOM

    def _add_residual(self) -> int:
        head = self.exact_head
        if head is None or not self._trains_weights(head):
            return -1
        index = self.editor.add_tensor("residual", schema.TensorType.INT8, (head.weight_count,), variable=True)
        self._add_state(index, KIND_RESIDUAL, head.ordinal)
        return index

    def _add_mean_prediction(self) -> int:
        if self.end.kind != LOSS_ENTROPY:
            return -1
        index = self.editor.add_tensor("mean_prediction", schema.TensorType.FLOAT32, (self.end.outputs,), variable=True)
        self._add_state(index, KIND_MEAN_PREDICTION, -1)
        return index

    def _add_state(self, index: int, kind: int, layer: int) -> None:
        """List a variable tensor that training keeps beside the model as a parameter, so that it is saved with it."""
        self.entries.append(
            ParameterEntry(
                kind=kind,
                layer=layer,
                variable_input=len(self.parameter_inputs),
                initial_input=-1,
                channels=1,
                channel_stride=1,
                headroom=0,
                exact=1,
                moments_input=-1,
                factor_offset=0,
                factor_count=1,
            )
        )
        self.parameter_inputs.append(index)

    def _head_inputs(self) -> dict[LossInput, int]:
        head = self.end.head
        if head is None:
            return {}
        return {
            LossInput.FEATURES: head.input,
            LossInput.HEAD_WEIGHTS: head.weights,
            LossInput.HEAD_BIAS: head.bias,
        }

    def _loss_options(self) -> LossOptions:
        end, head = self.end, self.end.head
        accumulator_scales = weight_factors = np.zeros(0)
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
            high_resolution=head is not None and end.kind != LOSS_MEAN_SQUARED_ERROR,
            features=self._features(),
            feature_zero_point=0 if head is None else head.input_quantization.zero_point,
            feature_scale=0.0 if head is None else head.input_quantization.scale,
            headroom=0,
            trains_bias=self.exact_head is not None and self.exact_head.bias >= 0,
            positions=end.positions,
            output=end.output,
            accumulator_scales=accumulator_scales,
            weight_factors=weight_factors,
        )
