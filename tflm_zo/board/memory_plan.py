# SPDX-License-Identifier: Apache-2.0
"""RAM and flash of a patched model on a board, and what to freeze where it does not fit."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from tflm_zo.board.boards import Board, find_board
from tflm_zo.board.code_size import CodeSize, code_sizes
from tflm_zo.board.layouts import CHECKPOINT_HEADER_SIZE, TrainingProgress
from tflm_zo.board.memory import (
    CHANNEL_SUM_BYTES,
    DEFAULT_BATCH,
    arena_size,
    batch_bytes,
    board_trees,
    kept_sample_bytes,
    reference_channels,
)
from tflm_zo.board.model_ops import ModelOps, model_ops
from tflm_zo.board.tflm_libraries import find_library
from tflm_zo.model.file import load_model
from tflm_zo.ops.names import NODE_OP, custom_code
from tflm_zo.patching.frozen_prefix import split
from tflm_zo.patching.patched_model import PatchedModel, read_patched
from tflm_zo.tflm.arena import ArenaPlan, plan_arena
from tflm_zo.tflm.layouts import ARDUINO_32, TFLM_32

# Beside weights and momentum a checkpoint holds the training's progress, and its slot a header.
_OTHER_BYTES = ctypes.sizeof(TrainingProgress) + CHECKPOINT_HEADER_SIZE


@dataclass(frozen=True)
class Share:
    """One part of a memory, in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class MemoryPlan:
    """What a board's RAM and flash are for; ``advice`` is empty if both suffice.

    ``checkpoint_bytes``: what one checkpoint takes of its slot of ``checkpoint_slot`` bytes. ``estimated_ops``: those
    whose kernels or structures were not measured. ``code_of``: the library whose code was measured in place of the
    one asked for, '' if that one was.
    """

    board: Board
    ram: tuple[Share, ...]
    flash: tuple[Share, ...]
    arena: ArenaPlan
    arena_bytes: int
    layers: dict[str, int]
    advice: str
    checkpoint_bytes: int
    checkpoint_slot: int
    estimated_ops: tuple[str, ...]
    code_of: str

    @property
    def ram_used(self) -> int:
        """Bytes of RAM in use."""
        return sum(share.size for share in self.ram)

    @property
    def flash_used(self) -> int:
        """Bytes of flash in use."""
        return sum(share.size for share in self.flash)

    @property
    def fits(self) -> bool:
        """Whether the board has enough of both."""
        return self.ram_used <= self.board.ram and self.flash_used <= self.board.flash


def plan_memory(
    model: bytes,
    board: str = "nano33ble",
    *,
    tflm_library: str = "chirale",
    batch_size: int = DEFAULT_BATCH,
) -> MemoryPlan:
    """Return the memory plan of the patched ``model`` on a board, for the sketch that the export writes.

    The arena is counted structure by structure (:mod:`tflm_zo.tflm.arena`); what the board's core and compiled code
    take is measured (:mod:`tflm_zo.board.code_size`). Raises :class:`ZoError` if the model is not patched or has an op
    that TFLM lacks.
    """
    recent, device = find_library(tflm_library).recent, find_board(board)
    patched = read_patched(model)
    tree = load_model(model)
    parts = split(patched.data)
    trees = board_trees(patched.data, parts)
    arena = plan_arena(trees, TFLM_32 if recent else ARDUINO_32, cmsis_nn=True)
    arena_bytes = arena_size(patched.data, parts, recent)
    # A library that was not measured: its kernels do the same, and are of about the same size.
    sizes = code_sizes()
    code, ops = sizes.get(tflm_library, sizes["chirale"]), model_ops(tree, recent)
    ram = (
        Share("activations", arena.activations),
        Share("trainable weights", arena.weights),
        Share("state of the training ops", arena.op_state),
        Share("TFLM's structures", arena.structures),
        Share("reserve of the arena", arena_bytes - arena.used),
        Share("samples of a step", batch_bytes(patched, parts, batch_size)),
        Share("sums for recalibration", CHANNEL_SUM_BYTES * reference_channels(patched)),
        Share("app", code.app_ram + code.op_ram * ops.count),
        Share("stack", device.stack),
        Share("heap and interrupts", device.heap),
        Share("board's core", device.core_ram),
    )
    flash = _flash_shares(device, code, ops, len(patched.data if parts is None else parts.image))
    layers = _layer_bytes(tree, patched)
    excess = (sum(share.size for share in ram) - device.ram, sum(share.size for share in flash) - device.flash)
    return MemoryPlan(
        board=device,
        ram=ram,
        flash=flash,
        arena=arena,
        arena_bytes=arena_bytes,
        layers=layers,
        advice=_advice(excess, layers, patched, kept_sample_bytes(patched, parts), batch_size),
        checkpoint_bytes=_checkpoint_bytes(patched),
        checkpoint_slot=device.checkpoints // 2,
        estimated_ops=(*arena.estimated_ops, *code.unknown(ops.builtin)),
        code_of="" if tflm_library in sizes else "chirale",
    )


def _flash_shares(board: Board, code: CodeSize, ops: ModelOps, model_bytes: int) -> tuple[Share, ...]:
    training = [op.registration for op in ops.training]
    kernels = code.flash(ops.builtin)
    return (
        Share("model", model_bytes),
        Share("kernels", kernels),
        Share("TFLM", code.tflm),
        Share("training ops", code.flash([*ops.builtin, *training]) - kernels),
        Share("app", code.app),
        Share("board's core", board.core_flash),
        Share("boot loader", board.boot_loader),
        Share("checkpoints", board.checkpoints),
    )


def _checkpoint_bytes(patched: PatchedModel) -> int:
    return _OTHER_BYTES + sum(p.arena_bytes + 4 * p.moments for p in patched.parameters)


def _layer_bytes(tree: Any, patched: PatchedModel) -> dict[str, int]:
    """RAM that freezing a layer would free: its values, state of its optimiser, sums of its gradient."""
    layers: dict[str, int] = {}
    for parameter in patched.parameters:
        size = parameter.arena_bytes + 4 * parameter.moments
        layers[parameter.layer] = layers.get(parameter.layer, 0) + size
    graph = tree.subgraphs[0]
    owner = {parameter.tensor: parameter.layer for parameter in patched.parameters}
    for operator in graph.operators:
        if custom_code(tree, operator) == NODE_OP and int(operator.inputs[8]) >= 0:
            elements = int(graph.tensors[int(operator.inputs[8])].shape[0])
            weights, bias = int(operator.inputs[3]), int(operator.inputs[5])
            layers[owner[weights if weights >= 0 else bias]] += 4 * elements
    return layers


def _advice(
    plan_excess: tuple[int, int], layers: dict[str, int], patched: PatchedModel, sample_bytes: int, batch_size: int
) -> str:
    """What to do about the bytes of RAM and of flash that are too many; '' if neither is."""
    ram, flash = plan_excess
    if flash > 0:
        return f"{flash} bytes of flash too much (the end of it is for checkpoints): the model must be smaller"
    if ram <= 0:
        return ""
    ways = []
    fewer = batch_size - -(-ram // sample_bytes)
    if fewer >= 1:
        ways.append(f"train on at most {fewer} samples a step (--batch-size {fewer})")
    freeze = _freezing(ram, layers, patched)
    if freeze:
        ways.append(freeze)
    if not ways and batch_size > 1:
        freeze = _freezing(ram - (batch_size - 1) * sample_bytes, layers, patched)
        if freeze:
            ways.append(f"train on one sample a step (--batch-size 1), and {freeze}")
    if not ways:
        ways.append("its activations alone are too large for the board: a smaller model, or a larger board")
    return f"{ram} bytes of RAM too much: {'; or '.join(ways)}"


def _freezing(excess: int, layers: dict[str, int], patched: PatchedModel) -> str:
    """Layers to freeze, the largest first and none that need not be; '' if no layer would be left."""
    freed, frozen = 0, []
    for name in sorted(layers, key=lambda name: -layers[name]):
        if freed >= excess:
            break
        frozen.append(name)
        freed += layers[name]
    for name in list(frozen):
        if freed - layers[name] >= excess:
            frozen.remove(name)
            freed -= layers[name]
    kept = [name for name in layers if name not in frozen]
    if freed < excess or not kept:
        return ""
    sums = " (or patch without sums of gradients)" if any(node.accumulates for node in patched.nodes) else ""
    return f"freeze {', '.join(frozen)}, which frees {freed} bytes{sums}: patch with --trainable {','.join(kept)}"
