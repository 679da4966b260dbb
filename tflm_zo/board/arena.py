# SPDX-License-Identifier: Apache-2.0
"""What a model takes of TFLM's arena on a board, without the board.

The plan follows TFLM's own allocations in their order: persistent ones grow from the end of the arena, tensors that
live for a part of the pass share its start by the greedy planner. The sizes of TFLM's structures are those of a
build (:class:`Layout`); the planner and the order are the same in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import builtin_code, builtin_name, constant, schema, shape_of, tensor_name
from tflm_zo.model.quantization import quantization_of
from tflm_zo.ops.names import LOSS_OP, NODE_OP, PARAMETER_OP, PREFIX, custom_code

ALIGNMENT = 16  # of tensors and of kernel data
_SCRATCH_REQUESTS_AN_OP = 12  # for which TFLM keeps room while it prepares the ops

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
class Layout:
    """Bytes of TFLM's structures in one build. ``kernel_data`` is what an op's state takes, ``builtin_data`` its
    parsed options, both by the schema's operator name; ops that are not listed take ``unknown_op``."""

    title: str
    pointer: int
    fixed: tuple[int, ...]  # arena allocator, planner, model allocator
    subgraph: int
    eval_tensor: int
    node: int
    tensor: int
    affine: int
    allocation_info: int
    kernel_data: dict[str, int] = field(repr=False)
    builtin_data: dict[str, int] = field(repr=False)
    unknown_op: int = 64


_BUILTIN_32 = {
    "CONV_2D": 28, "DEPTHWISE_CONV_2D": 28, "AVERAGE_POOL_2D": 40, "MAX_POOL_2D": 40, "L2_POOL_2D": 40,
    "FULLY_CONNECTED": 5, "SOFTMAX": 4, "ADD": 2, "SUB": 2, "MUL": 1, "MEAN": 1, "SUM": 1, "REDUCE_MAX": 1,
    "RESHAPE": 36, "CONCATENATION": 8, "STRIDED_SLICE": 24, "SQUEEZE": 36, "LEAKY_RELU": 4, "CAST": 2,
}  # fmt: skip
_KERNEL_32 = {
    "CONV_2D": 56, "DEPTHWISE_CONV_2D": 56, "AVERAGE_POOL_2D": 32, "MAX_POOL_2D": 32, "FULLY_CONNECTED": 48,
    "SOFTMAX": 56, "ADD": 60, "SUB": 52, "MUL": 36, "MEAN": 44, "SUM": 44, "REDUCE_MAX": 44, "RESHAPE": 0,
    "CONCATENATION": 24, "STRIDED_SLICE": 84, "SQUEEZE": 0, "LEAKY_RELU": 24, "LOGISTIC": 16, "TANH": 16,
    "RELU": 28, "RELU6": 8, "HARD_SWISH": 20, "QUANTIZE": 32, "DEQUANTIZE": 32, "PAD": 56, "PADV2": 56,
    "MAXIMUM": 0, "MINIMUM": 0, "TRANSPOSE": 0, "EXPAND_DIMS": 0, "CAST": 0, "RSQRT": 20,
}  # fmt: skip

# A current TFLM (2026) on a 32-bit microcontroller, built as its makefile does.
TFLM_32 = Layout("TFLM of 2026, 32-bit", 4, (36, 44, 36), 8, 12, 32, 32, 12, 24, _KERNEL_32, _BUILTIN_32)
# The Arduino libraries: TFLM of 2023/24, built without TF_LITE_STATIC_MEMORY, so that tensors and nodes carry more.
ARDUINO_32 = Layout(
    "Arduino library, 32-bit", 4, (36, 44, 36), 8, 12, 44, 64, 12, 24,
    _KERNEL_32 | {"FULLY_CONNECTED": 36, "MEAN": 40, "RELU6": 2},
    _BUILTIN_32 | {"CONV_2D": 24, "FULLY_CONNECTED": 4, "STRIDED_SLICE": 20},
)  # fmt: skip
# The Python wheel: 64-bit, built for compressed models too, with the allocator that records what it gave.
WHEEL_64 = Layout(
    "Python wheel, 64-bit", 8, (104, 72, 272), 24, 24, 64, 64, 24, 32,
    _KERNEL_32
    | {"CONV_2D": 72, "DEPTHWISE_CONV_2D": 72, "FULLY_CONNECTED": 72, "SOFTMAX": 80, "CONCATENATION": 40, "RSQRT": 28},
    _BUILTIN_32 | {"FULLY_CONNECTED": 16, "ADD": 8, "SUB": 8, "MUL": 4, "CAST": 8},
)  # fmt: skip

# Kernel data that CMSIS-NN's variants of the kernels add on 32-bit targets.
_CMSIS_EXTRA = {
    "CONV_2D": 4, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 24, "AVERAGE_POOL_2D": 4, "MAX_POOL_2D": 4,
    "SOFTMAX": 8,
}  # fmt: skip


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
        ours = {PARAMETER_OP: 3 * word, NODE_OP: 2 * word, LOSS_OP: 2 * word}
        if name in ours:
            self._take(ours[name], ALIGNMENT, "op_state")
            return
        size = self.layout.kernel_data.get(name)
        if size is None:
            self.estimated[name] = None
            size = self.layout.unknown_op
        if size:
            extra = _CMSIS_EXTRA.get(name, 0) if self.cmsis_nn else 0
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
            for words in (len(shape_of(inputs[0])), _count(shape_of(inputs[1])), _count(shape_of(output))):
                self.scratch.append((4 * words, index, f"scratch of {name}"))
        elif name == LOSS_OP:
            self.scratch.append((4 * _count(shape_of(inputs[0])), index, "scratch of the loss"))
        elif name == NODE_OP:
            y, weights = inputs[2], inputs[3]
            channels = shape_of(y)[-1]
            gradient = _count(shape_of(weights)) // channels if weights is not None else 0
            words = gradient + -(-channels // 32)
            self.scratch.append((4 * words, index, "scratch of a node"))
        scratch = _ARDUINO_CMSIS_SCRATCH if self.layout is ARDUINO_32 else _CMSIS_SCRATCH
        if self.cmsis_nn and name in scratch:
            size = scratch[name](operator, inputs, tensors[int(operator.outputs[0])])
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


def _count(shape: Sequence[int]) -> int:
    return math.prod(shape)


def _tensor_bytes(tensor: Any) -> int:
    size = _TYPE_BYTES.get(tensor.type)
    if size is None:
        raise ZoError(f"tensor {tensor_name(tensor)!r} has a type that TFLM's planner cannot place")
    return size * _count(shape_of(tensor))


# CMSIS-NN's scratch memory with the DSP extension: CMSIS-NN's documentation of its get_buffer_size functions. The
# general convolution unrolls two columns to int16, the fast 1x1 one likewise; a depthwise convolution one column,
# but none where it is 3x3 with a padding of at most one.


def _conv_scratch(operator: Any, inputs: Sequence[Any], output: Any) -> int:
    options = operator.builtinOptions
    _, height, width, channels = shape_of(inputs[1])
    strides_one = options.strideH == 1 and options.strideW == 1
    undilated = options.dilationHFactor == 1 and options.dilationWFactor == 1
    if height == 1 and width == 1 and undilated:
        return 2 * channels * 2 if strides_one else 0
    columns = height * width * channels
    return 2 * 2 * (-(-columns // 4) * 4)


def _depthwise_scratch(operator: Any, inputs: Sequence[Any], output: Any) -> int:
    options = operator.builtinOptions
    _, height, width, channels = shape_of(inputs[1])
    _, rows, columns, depth = shape_of(inputs[0])
    if depth != channels or options.dilationHFactor != 1 or options.dilationWFactor != 1:
        return 0
    _, out_rows, out_columns, _ = shape_of(output)
    pad_rows = _padding(options, rows, out_rows, height, options.strideH)
    pad_columns = _padding(options, columns, out_columns, width, options.strideW)
    if height == 3 and width == 3 and pad_rows <= 1 and pad_columns <= 1:
        return 0
    return 2 * channels * height * width


def _padding(options: Any, length: int, out: int, kernel: int, stride: int) -> int:
    if options.padding == schema.Padding.VALID:
        return 0
    return max(0, (out - 1) * stride + kernel - length) // 2


def _average_pool_scratch(operator: Any, inputs: Sequence[Any], output: Any) -> int:
    return 4 * shape_of(inputs[0])[-1]


_CMSIS_SCRATCH: dict[str, Callable[[Any, Sequence[Any], Any], int]] = {
    "CONV_2D": _conv_scratch,
    "DEPTHWISE_CONV_2D": _depthwise_scratch,
    "AVERAGE_POOL_2D": _average_pool_scratch,
}


# CMSIS-NN of the Arduino libraries (2023): its 1x1 convolution needs no scratch memory but only takes strides of one,
# and its 3x3 depthwise convolution is not yet one that needs none.


def _arduino_conv_scratch(operator: Any, inputs: Sequence[Any], output: Any) -> int:
    options = operator.builtinOptions
    _, height, width, channels = shape_of(inputs[1])
    steps = (options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor)
    if height == 1 and width == 1 and steps == (1, 1, 1, 1):
        return 0
    return 2 * 2 * height * width * channels


def _arduino_depthwise_scratch(operator: Any, inputs: Sequence[Any], output: Any) -> int:
    options = operator.builtinOptions
    _, height, width, channels = shape_of(inputs[1])
    same_depth = shape_of(inputs[0])[-1] == channels
    if not same_depth or options.dilationHFactor != 1 or options.dilationWFactor != 1:
        return 0
    return 2 * channels * height * width


_ARDUINO_CMSIS_SCRATCH = _CMSIS_SCRATCH | {
    "CONV_2D": _arduino_conv_scratch,
    "DEPTHWISE_CONV_2D": _arduino_depthwise_scratch,
}
