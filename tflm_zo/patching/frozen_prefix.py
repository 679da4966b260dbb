# SPDX-License-Identifier: Apache-2.0
"""Splitting a patched model: the frozen layers in front, and the rest that training runs again and again.

Where only late layers are trained or perturbed, the layers before them compute the same for a sample in every pass.
So a patched model can be run as two: the *prefix*, once for a sample, and the *suffix* with all training ops, for
each pass. Both are derived from the patched model, and what they compute together is what it computes.

The two are flatbuffers of their own that hold no constants: their tables stand in front of the patched model's bytes
and point into them (a flatbuffer's references are distances to what lies behind). So one block of memory holds all
three models, and each weight once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers.number_types import UOffsetTFlags

from tflm_zo.model.file import BUFFER_ALIGNMENT, FILE_IDENTIFIER, builtin_code, load_model, schema, shape_of
from tflm_zo.ops.names import OP_PREFIX, custom_code, is_patched

# Most tensors that may cross the cut: inside a residual block there are two. They stay in RAM during every pass.
_MOST_KEPT = 2

_WITH_WEIGHTS = frozenset(
    {
        schema.BuiltinOperator.CONV_2D,
        schema.BuiltinOperator.DEPTHWISE_CONV_2D,
        schema.BuiltinOperator.FULLY_CONNECTED,
        schema.BuiltinOperator.TRANSPOSE_CONV,
    }
)
# Operators whose result may depend on earlier passes.
_WITH_STATE = frozenset(
    {
        schema.BuiltinOperator.VAR_HANDLE,
        schema.BuiltinOperator.READ_VARIABLE,
        schema.BuiltinOperator.ASSIGN_VARIABLE,
        schema.BuiltinOperator.CALL_ONCE,
        schema.BuiltinOperator.IF,
        schema.BuiltinOperator.WHILE,
        schema.BuiltinOperator.CUSTOM,
    }
)

# Numbers of the fields in the schema.
_MODEL_OPERATOR_CODES, _MODEL_BUFFERS = 1, 4
_OPERATOR_INPUTS, _OPERATOR_OUTPUTS, _OPERATOR_BUILTIN_OPTIONS, _OPERATOR_CUSTOM_OPTIONS = 1, 2, 4, 5


@dataclass(frozen=True)
class SplitModel:
    """A patched model as two.

    ``image`` holds three flatbuffers: the suffix at its start, the prefix ``prefix_offset`` bytes from it and the
    patched model ``model_offset`` bytes from it, all aligned to 16 bytes. ``prefix_layers`` and ``suffix_layers``
    count operators without the training ops.

    The prefix takes the model's input, its outputs are the *kept* tensors that lead on, int8. The suffix takes them for
    its inputs 0, 3, ..., the command for 1, the target for 2. Its outputs are the patched model's, then the kept
    tensors: as outputs they outlast the pass, so the next pass on the same sample finds them where they are.
    """

    image: bytes
    prefix_offset: int
    model_offset: int
    prefix_layers: int
    suffix_layers: int
    kept_shapes: tuple[tuple[int, ...], ...]

    @property
    def kept_bytes(self) -> int:
        """Bytes of the kept tensors."""
        return sum(int(np.prod(shape)) for shape in self.kept_shapes)

    @property
    def prefix(self) -> bytes:
        """The prefix as a ``.tflite``."""
        return self.image[self.prefix_offset :]

    @property
    def suffix(self) -> bytes:
        """The suffix as a ``.tflite``."""
        return self.image


def layer_count(model: bytes) -> int:
    """Return the number of operators of a model, without training ops."""
    tree = load_model(model)
    return sum(not _trains(tree, op) for op in tree.subgraphs[0].operators)


def split(model: bytes) -> SplitModel | None:
    """Return the patched ``model`` as prefix and suffix, None if no layers can be run ahead.

    The cut is the latest place before the first operator that reads a trained tensor, or is trained by its output,
    where at most two tensors lead on, all int8. None also for a model without training ops, with several subgraphs or
    inputs of its own, or whose prefix would hold no weights. Raises :class:`~tflm_zo.errors.ZoError` if ``model`` is
    no model.
    """
    tree = load_model(model)
    if not is_patched(tree) or len(tree.subgraphs) != 1 or len(tree.subgraphs[0].inputs) != 3:
        return None
    cut = _find_cut(tree)
    if cut is None:
        return None
    graph = tree.subgraphs[0]
    position, kept = cut
    # The patcher puts the parameter op first; the prefix begins behind it.
    prefix = range(1, position)
    suffix = [0, *range(position, len(graph.operators))]
    sample, *controls = (int(i) for i in graph.inputs)
    image = _Image(bytes(model))
    prefix_end = image.add(prefix, [sample], kept)
    suffix_end = image.add(suffix, [kept[0], *controls, *kept[1:]], [*(int(i) for i in graph.outputs), *kept])
    return SplitModel(
        image=image.content(),
        prefix_offset=suffix_end - prefix_end,
        model_offset=suffix_end - image.model_end,
        prefix_layers=len(prefix),
        suffix_layers=sum(not _trains(tree, graph.operators[i]) for i in suffix),
        kept_shapes=tuple(shape_of(graph.tensors[i]) for i in kept),
    )


def _trains(tree: Any, operator: Any) -> bool:
    return custom_code(tree, operator).startswith(OP_PREFIX)


def _indices(vector: Any) -> list[int]:
    return [] if vector is None else [int(i) for i in vector if i >= 0]


def _find_cut(tree: Any) -> tuple[int, list[int]] | None:
    """The first operator of the suffix and the tensors that cross, in the order of the graph's tensors."""
    graph = tree.subgraphs[0]
    limit = 1
    while limit < len(graph.operators) and _can_run_ahead(tree, graph.operators[limit]):
        limit += 1
    for position in range(limit, 1, -1):
        prefix, suffix = graph.operators[1:position], graph.operators[position:]
        if not any(builtin_code(tree, op) in _WITH_WEIGHTS for op in prefix):
            return None
        made = {i for op in prefix for i in _indices(op.outputs)}
        needed = {i for op in suffix for i in _indices(op.inputs)} | set(_indices(graph.outputs))
        if int(graph.inputs[0]) in needed or made & set(_indices(graph.outputs)):
            continue
        kept = sorted(made & needed)
        whole = all(graph.tensors[i].type == schema.TensorType.INT8 for i in kept)
        if whole and 1 <= len(kept) <= _MOST_KEPT:
            return position, kept
    return None


def _can_run_ahead(tree: Any, operator: Any) -> bool:
    """Whether an operator computes from its input and constants alone."""
    tensors = tree.subgraphs[0].tensors
    touched = [*_indices(operator.inputs), *_indices(operator.outputs)]
    return builtin_code(tree, operator) not in _WITH_STATE and not any(tensors[i].isVariable for i in touched)


class _Image:
    """Flatbuffers in front of a model's bytes that share its tables. Places are counted from the end, as
    flatbuffers are built from there."""

    def __init__(self, model: bytes) -> None:
        self.model = schema.Model.GetRootAs(model, 0)
        self.graph = self.model.Subgraphs(0)
        padded = model + bytes(-len(model) % BUFFER_ALIGNMENT)
        self.model_end = len(padded)
        self.builder = flatbuffers.Builder(2 * len(padded))
        self.builder.Bytes[-len(padded) :] = padded
        self.builder.head = UOffsetTFlags.py_type(len(self.builder.Bytes) - len(padded))
        self.builder.minalign = BUFFER_ALIGNMENT

    def content(self) -> bytes:
        return bytes(self.builder.Bytes[self.builder.head :])

    def add(self, operators: Iterable[int], inputs: Sequence[int], outputs: Sequence[int]) -> int:
        """Put a model with some of the operators in front; returns where it starts."""
        builder = self.builder
        operators = list(operators)
        used = {*inputs, *outputs}
        for index in operators:
            for field in (_OPERATOR_INPUTS, _OPERATOR_OUTPUTS):
                used |= {i for i in _vector(self.graph.Operators(index), field) if i >= 0}
        order = sorted(used)
        number = {index: new for new, index in enumerate(order)} | {-1: -1}
        tensor_tables = self._references(self._end(self.graph.Tensors(i)._tab.Pos) for i in order)
        operator_tables = self._references([self._copy_operator(i, number) for i in operators])
        inputs_vector = builder.CreateNumpyVector(np.array([number[i] for i in inputs], np.int32))
        outputs_vector = builder.CreateNumpyVector(np.array([number[i] for i in outputs], np.int32))
        schema.SubGraphStart(builder)
        schema.SubGraphAddTensors(builder, tensor_tables)
        schema.SubGraphAddInputs(builder, inputs_vector)
        schema.SubGraphAddOutputs(builder, outputs_vector)
        schema.SubGraphAddOperators(builder, operator_tables)
        subgraphs = self._references([schema.SubGraphEnd(builder)])
        schema.ModelStart(builder)
        schema.ModelAddVersion(builder, self.model.Version())
        schema.ModelAddOperatorCodes(builder, self._shared(self.model, _MODEL_OPERATOR_CODES))
        schema.ModelAddSubgraphs(builder, subgraphs)
        schema.ModelAddBuffers(builder, self._shared(self.model, _MODEL_BUFFERS))
        return self._root(schema.ModelEnd(builder))

    def _copy_operator(self, index: int, number: dict[int, int]) -> int:
        """An operator with its tensors renumbered; its options stay where they are."""
        builder, origin = self.builder, self.graph.Operators(index)
        vectors = [
            builder.CreateNumpyVector(np.array([number[i] for i in _vector(origin, field)], np.int32))
            for field in (_OPERATOR_INPUTS, _OPERATOR_OUTPUTS)
        ]
        schema.OperatorStart(builder)
        schema.OperatorAddOpcodeIndex(builder, origin.OpcodeIndex())
        schema.OperatorAddInputs(builder, vectors[0])
        schema.OperatorAddOutputs(builder, vectors[1])
        schema.OperatorAddBuiltinOptionsType(builder, origin.BuiltinOptionsType())
        schema.OperatorAddBuiltinOptions(builder, self._shared(origin, _OPERATOR_BUILTIN_OPTIONS))
        schema.OperatorAddCustomOptions(builder, self._shared(origin, _OPERATOR_CUSTOM_OPTIONS))
        return int(schema.OperatorEnd(builder))

    def _shared(self, table: Any, field: int) -> int:
        """What a field of one of the model's tables refers to; 0, which leaves a field out, if it is not set."""
        at = _field(table, field)
        return 0 if at == 0 else self._end(table._tab.Indirect(at))

    def _end(self, position: int) -> int:
        return self.model_end - int(position)

    def _references(self, ends: Iterable[int]) -> int:
        ends = list(ends)
        self.builder.StartVector(4, len(ends), 4)
        for end in reversed(ends):
            self.builder.PrependUOffsetTRelative(end)
        return int(self.builder.EndVector())

    def _root(self, table: int) -> int:
        builder = self.builder
        builder.Prep(BUFFER_ALIGNMENT, 4 + len(FILE_IDENTIFIER))
        for byte in reversed(FILE_IDENTIFIER):
            builder.PrependByte(byte)
        builder.PrependUOffsetTRelative(table)
        return int(builder.Offset())


def _field(table: Any, field: int) -> int:
    """Position of a table's field, 0 if it is not set."""
    offset = table._tab.Offset(4 + 2 * field)
    return 0 if offset == 0 else int(table._tab.Pos + offset)


def _vector(operator: Any, field: int) -> list[int]:
    read: Callable[[], Any] = operator.InputsAsNumpy if field == _OPERATOR_INPUTS else operator.OutputsAsNumpy
    values = read()
    return [int(i) for i in values] if isinstance(values, np.ndarray) else []
