# SPDX-License-Identifier: Apache-2.0
"""What a model takes of TFLM's arena on a board, without the board.

The plan follows TFLM's own allocations in their order: persistent ones grow from the end of the arena, tensors that
live for a part of the pass share its start by the greedy planner. The sizes of TFLM's structures are those of a
build (:class:`Layout`); the planner and the order are the same in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import builtin_code, builtin_name, constant, schema, shape_of, tensor_name
from tflm_zo.model.graph import read_operator, read_tensor
from tflm_zo.model.quantization import quantization_of
from tflm_zo.ops.layouts import LOSS_STATE_WORDS, NODE_STATE_WORDS, PARAMETER_STATE_WORDS, LossInput, NodeInput
from tflm_zo.ops.names import LOSS_OP, NODE_OP, PARAMETER_OP, PREFIX, custom_code
from tflm_zo.tflm.cmsis_nn import ARDUINO_SCRATCH, EXTRA_KERNEL_DATA, SCRATCH
from tflm_zo.tflm.layouts import ARDUINO_32, Layout

ALIGNMENT = 16  # of tensors and of kernel data
_SCRATCH_REQUESTS_AN_OP = 12  # for which TFLM keeps room while it prepares the ops

_STATE_WORDS = {PARAMETER_OP: PARAMETER_STATE_WORDS, NODE_OP: NODE_STATE_WORDS, LOSS_OP: LOSS_STATE_WORDS}

_TYPE_BYTES = {
    schema.TensorType.FLOAT32: 4,
    schema.TensorType.INT32: 4,
    schema.TensorType.UINT8: 1,
    schema.TensorType.INT64: 8,
    schema.TensorType.BOOL: 1,
    schema.TensorType.INT16: 2,
    schema.TensorType.INT8: 1,
    schema.TensorType.UINT32: 4,
}


@dataclass(frozen=True)
class PlannedBuffer:
    """One tensor or scratch buffer at the start of the arena: bytes (aligned), first and last operator that need it
    (0: before the first; those of the frozen layers count first), and the offset that the planner gave it."""

    name: str
    size: int
    first: int
    last: int
    offset: int


@dataclass(frozen=True)
class ArenaPlan:
    """Bytes of the arena, by what they are for; ``used`` is what TFLM reports as used, ``required`` the smallest
    arena that also has room for the work of planning it."""

    activations: int
    weights: int
    op_state: int
    structures: int
    used: int
    required: int
    buffers: tuple[PlannedBuffer, ...]
    estimated_ops: tuple[str, ...]


def plan_arena(trees: Sequence[Any], layout: Layout, cmsis_nn: bool = False) -> ArenaPlan:
    """Return the plan of the arena that models share, for a build of TFLM.

    trees: the models, in the order in which they are allocated, the last one to run first. cmsis_nn: with CMSIS-NN's
    kernels for a processor with the DSP extension (Cortex-M4, M7, M33) rather than the reference kernels. Raises
    :class:`ZoError` if a model has several subgraphs.
    """
    for tree in trees:
        if len(tree.subgraphs) != 1:
            raise ZoError(f"the model has {len(tree.subgraphs)} subgraphs; memory can be planned for one only")
    tail = _Tail()
    for size in layout.fixed:
        tail.take(size, layout.pointer)
    planners = [_Planner(tree, layout, cmsis_nn, tail) for tree in trees]
    for planner in planners:
        planner.run()
    buffers: list[PlannedBuffer] = []
    before = 0
    for planner in reversed(planners):
        buffers += [replace(b, first=b.first + before, last=b.last + before) for b in planner.buffers]
        before += len(planner.graph.operators)
    activations = max((b.offset + b.size for b in buffers), default=0)
    used = activations + tail.size
    return ArenaPlan(
        activations=activations,
        used=used,
        # The end of the arena is aligned down once.
        required=max(used, *(planner.planning for planner in planners)) + ALIGNMENT,
        buffers=tuple(buffers),
        estimated_ops=tuple(dict.fromkeys(name for planner in planners for name in planner.estimated)),
        **tail.shares,
    )


class _Tail:
    """What is taken from the end of the arena, for good."""

    def __init__(self) -> None:
        self.size = 0
        self.shares: dict[str, int] = {"weights": 0, "op_state": 0, "structures": 0}

    def take(self, size: int, alignment: int, share: str = "structures") -> None:
        before = self.size
        self.size = -(-(self.size + size) // alignment) * alignment
        self.shares[share] += self.size - before


class _Planner:
    """One model's allocations; ``planning`` is the arena that is in use while TFLM plans it."""

    def __init__(self, tree: Any, layout: Layout, cmsis_nn: bool, tail: _Tail) -> None:
        self.tree, self.graph, self.layout, self.cmsis_nn = tree, tree.subgraphs[0], layout, cmsis_nn
        self._take = tail.take
        self.tail = tail
        self.scratch: list[tuple[int, int, str]] = []  # bytes, operator, name
        self.estimated: dict[str, None] = {}
        self.buffers: list[PlannedBuffer] = []
        self.planning = 0

    def run(self) -> None:
        layout, graph = self.layout, self.graph
        word = layout.pointer
        self._take(2 * word, word)  # allocator of the parsed options
        self._take(layout.subgraph, word)
        self._take(layout.eval_tensor * len(graph.tensors), word)
        self._take(layout.node * len(graph.operators), word)
        names = [self._op_name(operator) for operator in graph.operators]
        for name in names:
            size = layout.builtin_data.get(name, 0)
            if size:
                self._take(size, min(4, size & -size))
        for name in names:
            self._take_kernel_data(name)
        for index, (name, operator) in enumerate(zip(names, graph.operators, strict=True)):
            self._prepare(index, name, operator)
        if self.scratch:
            self._take(word * len(self.scratch), word)
        for tensor in graph.tensors:
            if tensor.isVariable:
                self._take(_tensor_bytes(tensor), ALIGNMENT, self._variable_share(tensor))

        self.buffers = self._planned_buffers()
        self.planning = self.tail.size + self._planning_bytes(len(self.buffers))
        for indices in (graph.inputs, graph.outputs):
            self._take(word * len(indices), ALIGNMENT)
            for index in indices:
                self._take_tensor(graph.tensors[int(index)])

    def _op_name(self, operator: Any) -> str:
        code = builtin_code(self.tree, operator)
        return custom_code(self.tree, operator) if code == schema.BuiltinOperator.CUSTOM else builtin_name(code)

    def _take_kernel_data(self, name: str) -> None:
        word = self.layout.pointer
        if name in _STATE_WORDS:
            self._take(_STATE_WORDS[name] * word, ALIGNMENT, "op_state")
            return
        size = self.layout.kernel_data.get(name)
        if size is None:
            self.estimated[name] = None
            size = self.layout.unknown_op
        if size:
            extra = EXTRA_KERNEL_DATA.get(name, 0) if self.cmsis_nn else 0
            self._take(size + extra, ALIGNMENT)

    def _prepare(self, index: int, name: str, operator: Any) -> None:
        """Kernel data and scratch memory that depend on the shapes of an operator's tensors."""
        tensors = self.graph.tensors
        inputs = [tensors[int(i)] if int(i) >= 0 else None for i in operator.inputs]
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            filter_shape = shape_of(inputs[1])
            channels = filter_shape[-1] if name == "DEPTHWISE_CONV_2D" else filter_shape[0]
            for _ in ("multipliers", "shifts"):
                self._take(4 * channels, ALIGNMENT)
        elif name == "FULLY_CONNECTED" and self.layout is not ARDUINO_32:
            quantization = quantization_of(inputs[1])
            if quantization is not None and len(quantization.scales) > 1:
                for _ in ("multipliers", "shifts"):
                    self._take(4 * len(quantization.scales), ALIGNMENT)
        elif name in ("MEAN", "SUM"):
            output = tensors[int(operator.outputs[0])]
            for words in (len(shape_of(inputs[0])), math.prod(shape_of(inputs[1])), math.prod(shape_of(output))):
                self.scratch.append((4 * words, index, f"scratch of {name}"))
        elif name == LOSS_OP:
            self.scratch.append((4 * math.prod(shape_of(inputs[LossInput.LOGITS])), index, "scratch of the loss"))
        elif name == NODE_OP:
            y, weights = inputs[NodeInput.LAYER_OUTPUT], inputs[NodeInput.WEIGHTS]
            channels = shape_of(y)[-1]
            gradient = math.prod(shape_of(weights)) // channels if weights is not None else 0
            words = gradient + -(-channels // 32)
            self.scratch.append((4 * words, index, "scratch of a node"))
        scratch = ARDUINO_SCRATCH if self.layout is ARDUINO_32 else SCRATCH
        if self.cmsis_nn and name in scratch:
            read = read_operator(self.tree, index)
            size = scratch[name](read, [read_tensor(self.tree, i) for i in read.inputs if i >= 0])
            if size > 0:
                self.scratch.append((size, index, f"scratch of {name}"))

    def _variable_share(self, tensor: Any) -> str:
        name = tensor_name(tensor)
        return "op_state" if name.startswith(PREFIX) else "weights"

    def _take_tensor(self, tensor: Any) -> None:
        self._take(self.layout.tensor, self.layout.pointer)
        quantization = quantization_of(tensor)
        if quantization is not None:
            self._take(self.layout.affine, self.layout.pointer)
            self._take(4 + 4 * len(quantization.scales), 4)

    def _planned_buffers(self) -> list[PlannedBuffer]:
        """Lifetimes as TFLM marks them, then offsets by its greedy planner."""
        graph = self.graph
        first: dict[int, int] = {int(i): 0 for i in graph.inputs}
        last: dict[int, int] = dict.fromkeys(first, 0)
        for scope, operator in enumerate(graph.operators, start=1):
            for i in (int(i) for i in operator.outputs):
                first.setdefault(i, scope)
            for i in (int(i) for i in [*operator.inputs, *operator.outputs]):
                if i >= 0:
                    last[i] = scope
        end = len(graph.operators)
        for i in (int(i) for i in graph.outputs):
            first.setdefault(i, end)
            last[i] = end
        wanted: list[tuple[str, int, int, int]] = []
        for index, tensor in enumerate(graph.tensors):
            size = _tensor_bytes(tensor)
            if index in first and size and not tensor.isVariable and not self._is_constant(tensor):
                wanted.append((tensor_name(tensor), _aligned(size), first[index], last[index]))
        for size, operator_index, name in self.scratch:
            wanted.append((name, _aligned(size), operator_index + 1, operator_index + 1))
        offsets = greedy_offsets([(size, a, b) for _, size, a, b in wanted])
        return [PlannedBuffer(*w, offset) for w, offset in zip(wanted, offsets, strict=True)]

    def _is_constant(self, tensor: Any) -> bool:
        return constant(self.tree, tensor, np.uint8) is not None

    def _planning_bytes(self, buffers: int) -> int:
        """What the start of the arena holds while TFLM plans it: requests, lifetimes, the planner's lists."""
        word = self.layout.pointer
        requests = (2 * word + 4 if word == 4 else 16) * (len(self.scratch) + _SCRATCH_REQUESTS_AN_OP)
        lifetimes = self.layout.allocation_info * (len(self.graph.tensors) + len(self.scratch))
        return requests + word + lifetimes + 40 * (buffers + 1) + 3 * ALIGNMENT


def greedy_offsets(wanted: Sequence[tuple[int, int, int]]) -> list[int]:
    """Return the offsets that TFLM's greedy planner gives buffers of (bytes, first use, last use).

    The largest is placed first, among equals the one that came last; each goes to the lowest gap that holds it among
    the buffers, placed before, that are in use at the same time.
    """
    offsets = [0] * len(wanted)
    placed: list[int] = []  # by offset
    for i in sorted(reversed(range(len(wanted))), key=lambda i: -wanted[i][0]):
        size, first, last = wanted[i]
        offset = 0
        for j in placed:
            other_size, other_first, other_last = wanted[j]
            if other_first > last or first > other_last:
                continue
            if offsets[j] - offset >= size:
                break
            offset = max(offset, offsets[j] + other_size)
        offsets[i] = offset
        position = next((k for k, j in enumerate(placed) if offsets[j] > offset), len(placed))
        placed.insert(position, i)
    return offsets


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _tensor_bytes(tensor: Any) -> int:
    size = _TYPE_BYTES.get(tensor.type)
    if size is None:
        raise ZoError(f"tensor {tensor_name(tensor)!r} has a type that TFLM's planner cannot place")
    return size * math.prod(shape_of(tensor))
