# SPDX-License-Identifier: Apache-2.0
"""Lowerings of operators that only move codes: which element of the inputs each element of the output is.

That is found out with NumPy: what an operator does to the elements' numbers, it does to the elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tflm_zo.model.graph import Operator, Tensor
from tflm_zo.simulator.lowering_context import Context
from tflm_zo.simulator.sim_layer import SimLayer

_Move = Callable[[Context, np.ndarray], np.ndarray]


def _numbers(tensor: Tensor, first: int = 0) -> np.ndarray:
    """The numbers of a tensor's elements, of its shape."""
    return np.arange(first, first + math.prod(tensor.shape), dtype=np.int32).reshape(tensor.shape)


def _add(c: Context, inputs: tuple[int, ...], places: np.ndarray, fill: np.ndarray | None = None) -> SimLayer:
    target = c.activation(c.output)
    if places.size != math.prod(target.shape):
        raise c.fail(f"the output of shape {target.shape} should have {places.size} elements")
    for index in inputs:
        c.same_scale(index, c.output)
    c.engine.add_gather(inputs, c.output, np.ascontiguousarray(places, np.int32), fill)
    return c.layer(inputs=inputs)


def _move(function: _Move) -> Callable[[Context], SimLayer]:
    """An operator that makes its output of its first input's elements."""

    def lowering(c: Context) -> SimLayer:
        index = c.op.inputs[1 if c.op.name == "SPLIT" else 0]  # a SPLIT's first input is the axis
        return _add(c, (index,), function(c, _numbers(c.activation(index))))

    return lowering


def _joined(c: Context, join: Callable[[list[np.ndarray]], np.ndarray]) -> SimLayer:
    """CONCATENATION and PACK: of tensors and constants."""
    first: dict[int, int] = {}  # of each input that is computed: the number of its first element
    total = 0
    places, values = [], []
    for index in c.op.inputs:
        tensor = c.graph.tensors[index]
        c.same_scale(index, c.output)
        if tensor.data is None and index not in first:
            first[index] = total
            total += c.activation(index).sample_size
        constant = tensor.data is not None
        places.append(np.full(tensor.shape, -1, np.int32) if constant else _numbers(tensor, first[index]))
        values.append(np.zeros(tensor.shape, np.int8) if tensor.data is None else tensor.data.astype(np.int8))
    return _add(c, tuple(first), join(places), np.ascontiguousarray(join(values)))


def _concatenation(c: Context) -> SimLayer:
    axis = int(c.op.options.get("axis", 0))
    return _joined(c, lambda parts: np.concatenate(parts, axis))


def _pack(c: Context) -> SimLayer:
    axis = int(c.op.options.get("axis", 0))
    return _joined(c, lambda parts: np.stack(parts, axis))


def _slice(c: Context, numbers: np.ndarray) -> np.ndarray:
    begin, size = (c.constant(i, "INT32").reshape(-1) for i in (1, 2))
    ends = [None if n < 0 else int(b + n) for b, n in zip(begin, size, strict=True)]
    return numbers[tuple(slice(int(b), e) for b, e in zip(begin, ends, strict=True))]


def _strided_slice(c: Context, numbers: np.ndarray) -> np.ndarray:
    begin, end, stride = (c.constant(i, "INT32").reshape(-1) for i in (1, 2, 3))
    options = c.op.options
    if options.get("ellipsisMask") or options.get("newAxisMask") or options.get("offset"):
        raise c.fail("an ellipsis, a new axis or an offset is not supported")
    cuts: list[slice | int] = []
    for axis, (b, e, s) in enumerate(zip(begin.tolist(), end.tolist(), stride.tolist(), strict=True)):
        bit = 1 << axis
        if options.get("shrinkAxisMask", 0) & bit:
            cuts.append(b)
        else:
            first = None if options.get("beginMask", 0) & bit else b
            last = None if options.get("endMask", 0) & bit else e
            cuts.append(slice(first, last, s))
    return numbers[tuple(cuts)]


def _transpose(c: Context, numbers: np.ndarray) -> np.ndarray:
    return numbers.transpose(c.constant(1, "INT32").reshape(-1).tolist())


def _part(op: Operator) -> int:
    """Which output of an operator with several this is."""
    return int(op.options.get("part", 0))


def _split(c: Context, numbers: np.ndarray) -> np.ndarray:
    axis = int(c.constant(0, "INT32").reshape(-1)[0])
    return np.split(numbers, int(c.op.options["numSplits"]), axis)[_part(c.op)]


def _split_v(c: Context, numbers: np.ndarray) -> np.ndarray:
    sizes = c.constant(1, "INT32").reshape(-1).tolist()
    axis = int(c.constant(2, "INT32").reshape(-1)[0])
    if -1 in sizes:
        sizes[sizes.index(-1)] = numbers.shape[axis] - sum(sizes) - 1
    return np.split(numbers, np.cumsum(sizes)[:-1].tolist(), axis)[_part(c.op)]


def _unpack(c: Context, numbers: np.ndarray) -> np.ndarray:
    return numbers.take(_part(c.op), axis=int(c.op.options.get("axis", 0)))


def _gather(c: Context, numbers: np.ndarray) -> np.ndarray:
    if c.op.options.get("batchDims"):
        raise c.fail("batch dimensions are not supported")
    return numbers.take(c.constant(1, "INT32"), axis=int(c.op.options.get("axis", 0)))


def _broadcast_to(c: Context, numbers: np.ndarray) -> np.ndarray:
    return np.broadcast_to(numbers, c.activation(c.output).shape)


def _mirror_pad(c: Context, numbers: np.ndarray) -> np.ndarray:
    border = c.constant(1, "INT32").reshape(-1, 2)
    return np.pad(numbers, border, mode="symmetric" if c.op.options.get("mode", 0) else "reflect")


def _nearest(size: int, target: int, align: bool, half: bool) -> np.ndarray:
    """For each of ``target`` places that of ``size`` nearest to it, in single precision."""
    scale = np.float32(size) / np.float32(target)
    if align and target > 1:
        scale = np.float32(size - 1) / np.float32(target - 1)
    at = (np.arange(target, dtype=np.float32) + np.float32(0.5 if half else 0.0)) * scale
    found = np.floor(at + np.float32(0.5)) if align else np.floor(at)
    return np.clip(found.astype(np.int64), 0, size - 1)


def _resize_nearest(c: Context, numbers: np.ndarray) -> np.ndarray:
    align, half = (bool(c.op.options.get(name, False)) for name in ("alignCorners", "halfPixelCenters"))
    _, height, width, _ = c.image(c.output).shape
    rows, columns = (
        _nearest(size, target, align, half) for size, target in zip(numbers.shape[1:3], (height, width), strict=True)
    )
    return numbers[:, rows][:, :, columns]


def _space_to_depth(c: Context, numbers: np.ndarray) -> np.ndarray:
    block = int(c.op.options["blockSize"])
    _, height, width, depth = numbers.shape
    split = numbers.reshape(height // block, block, width // block, block, depth)
    return split.transpose(0, 2, 1, 3, 4)


def _depth_to_space(c: Context, numbers: np.ndarray) -> np.ndarray:
    block = int(c.op.options["blockSize"])
    _, height, width, depth = numbers.shape
    split = numbers.reshape(height, width, block, block, depth // block**2)
    return split.transpose(0, 2, 1, 3, 4)


def _space_to_batch(c: Context, numbers: np.ndarray) -> np.ndarray:
    block = c.constant(1, "INT32").reshape(-1).tolist()
    if np.any(c.constant(2, "INT32")):
        raise c.fail("TFLite Micro pads with what happens to be in its memory; pad before it, by PAD")
    sizes = [numbers.shape[0]]
    for size, step in zip(numbers.shape[1:], block, strict=False):
        sizes += [size // step, step]
    split = numbers.reshape(*sizes, *numbers.shape[1 + len(block) :])
    steps = [2 + 2 * i for i in range(len(block))]
    return split.transpose([*steps, 0, *(step - 1 for step in steps), *range(1 + 2 * len(block), split.ndim)])


def _batch_to_space(c: Context, numbers: np.ndarray) -> np.ndarray:
    block, crops = c.constant(1, "INT32").reshape(-1).tolist(), c.constant(2, "INT32").reshape(-1, 2).tolist()
    count = len(block)
    batch = numbers.shape[0] // math.prod(block)
    split = numbers.reshape(*block, batch, *numbers.shape[1:])
    order = [count]
    for axis in range(count):
        order += [count + 1 + axis, axis]
    order += list(range(2 * count + 1, split.ndim))
    sizes = [size * step for size, step in zip(numbers.shape[1:], block, strict=False)]
    joined = split.transpose(order).reshape(batch, *sizes, *numbers.shape[1 + count :])
    cuts = [slice(None)] + [slice(first, size - last) for (first, last), size in zip(crops, sizes, strict=True)]
    return joined[tuple(cuts)]


def _pad(c: Context) -> SimLayer:
    source, target = c.activation(c.input), c.activation(c.output)
    border = c.constant(1, "INT32").reshape(-1, 2)
    expected = tuple(size + int(sum(pads)) for size, pads in zip(source.shape, border, strict=False))
    if len(border) != len(source.shape) or np.any(border < 0) or np.any(border[0]) or target.shape != expected:
        raise c.fail(f"{source.shape} cannot be padded by {border.tolist()} to {target.shape}")
    value = target.zero_point
    if len(c.op.inputs) > 2:
        value = int(c.constant(2, "INT8").reshape(-1)[0])
        c.same_scale(c.op.inputs[2], c.output)
    places = np.pad(_numbers(source), border, constant_values=-1)
    return _add(c, (c.input,), places, np.full(places.size, value, np.int8))


MOVE_LOWERINGS: dict[str, Callable[[Context], SimLayer]] = {
    "BATCH_TO_SPACE_ND": _move(_batch_to_space),
    "BROADCAST_TO": _move(_broadcast_to),
    "CONCATENATION": _concatenation,
    "DEPTH_TO_SPACE": _move(_depth_to_space),
    "GATHER": _move(_gather),
    "MIRROR_PAD": _move(_mirror_pad),
    "PACK": _pack,
    "PAD": _pad,
    "PADV2": _pad,
    "RESIZE_NEAREST_NEIGHBOR": _move(_resize_nearest),
    "SLICE": _move(_slice),
    "SPACE_TO_BATCH_ND": _move(_space_to_batch),
    "SPACE_TO_DEPTH": _move(_space_to_depth),
    "SPLIT": _move(_split),
    "SPLIT_V": _move(_split_v),
    "STRIDED_SLICE": _move(_strided_slice),
    "TRANSPOSE": _move(_transpose),
    "UNPACK": _move(_unpack),
}
