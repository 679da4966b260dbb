# SPDX-License-Identifier: Apache-2.0
"""RAM and flash of a model on a board."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from tflm_zo.board.advice import Situation, advice
from tflm_zo.board.boards import Board, find_board
from tflm_zo.board.code_size import CodeSize, code_sizes
from tflm_zo.board.layouts import CHECKPOINT_HEADER_SIZE, TrainingProgress
from tflm_zo.board.library_model import library_model
from tflm_zo.board.memory import (
    CHANNEL_SUM_BYTES,
    DEFAULT_BATCH,
    Share,
    arena_size,
    batch_bytes,
    board_trees,
    reference_channels,
)
from tflm_zo.board.model_ops import ModelOps, model_ops
from tflm_zo.board.tflm_libraries import find_library
from tflm_zo.model.file import damage_reported, load_model
from tflm_zo.ops.names import NODE_OP, custom_code, is_patched
from tflm_zo.patching.frozen_prefix import SplitModel, split
from tflm_zo.patching.patched_model import PatchedModel, read_patched
from tflm_zo.tflm.arena import ArenaPlan, plan_arena
from tflm_zo.tflm.layouts import ARDUINO_32, TFLM_32

# Beside weights and momentum a checkpoint holds the training's progress, and its slot a header.
_OTHER_BYTES = ctypes.sizeof(TrainingProgress) + CHECKPOINT_HEADER_SIZE


@dataclass(frozen=True)
class MemoryPlan:
    """What a board's RAM and flash are for; ``advice`` is empty if both suffice.

    ``checkpoint_bytes``: what one checkpoint takes of its slot of ``checkpoint_slot`` bytes. ``estimated_ops``: those
    whose kernels or structures were not measured. ``code_of``: the library whose code was measured in place of the
    one asked for, '' if that one was. ``trains``: whether the model is patched; without it only inference is counted.
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
    trains: bool

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


@damage_reported()
def plan_memory(
    model: bytes,
    board: str = "nano33ble",
    *,
    tflm_library: str = "chirale",
    batch_size: int = DEFAULT_BATCH,
) -> MemoryPlan:
    """Return the memory plan of ``model`` on a board: of a patched one for the sketch that the export writes, of any
    other for inference alone, without the program around it.

    The arena is counted structure by structure (:mod:`tflm_zo.tflm.arena`); what the board's core and compiled code
    take is measured (:mod:`tflm_zo.board.code_size`). Raises :class:`ZoError` if the model has an op that TFLM lacks,
    or one that the library would compute otherwise than the host.
    """
    recent, device = find_library(tflm_library).recent, find_board(board)
    if is_patched(load_model(model)):
        read_patched(model)  # refuses what is damaged, before anything is read of it
    model_ops(load_model(model), recent)
    data = library_model(model, tflm_library).data
    patched = read_patched(data) if is_patched(load_model(data)) else None
    parts = None if patched is None else split(data)
    arena = plan_arena(board_trees(data, parts), TFLM_32 if recent else ARDUINO_32, cmsis_nn=True)
    arena_bytes = arena_size(data, parts, recent)
    # A library that was not measured: its kernels do the same, and are of about the same size.
    sizes = code_sizes()
    code, ops = sizes.get(tflm_library, sizes["chirale"]), model_ops(load_model(data), recent)
    arena_shares = (
        Share("activations", arena.activations),
        Share("trainable weights", arena.weights),
        Share("state of the training ops", arena.op_state),
        Share("TFLM's structures", arena.structures),
        Share("reserve of the arena", arena_bytes - arena.used),
    )
    app_ram = code.app_ram + code.op_ram * ops.count
    samples = () if patched is None else _sample_shares(patched, parts, batch_size, app_ram)
    ram = (*arena_shares, *samples, *_core_shares(device))
    image = len(data if parts is None else parts.image)
    flash = _flash_shares(device, code, ops, image, trains=patched is not None)
    layers = {} if patched is None else _layer_bytes(load_model(data), patched)
    return MemoryPlan(
        board=device,
        ram=ram,
        flash=flash,
        arena=arena,
        arena_bytes=arena_bytes,
        layers=layers,
        advice=advice(Situation(device, ram, flash, arena, patched, parts, layers, batch_size)),
        checkpoint_bytes=0 if patched is None else _checkpoint_bytes(patched),
        checkpoint_slot=0 if patched is None else device.checkpoints // 2,
        estimated_ops=(*arena.estimated_ops, *code.unknown(ops.builtin)),
        code_of="" if tflm_library in sizes else "chirale",
        trains=patched is not None,
    )


def _sample_shares(patched: PatchedModel, parts: SplitModel | None, batch_size: int, app_ram: int) -> tuple[Share, ...]:
    return (
        Share("samples of a step", batch_bytes(patched, parts, batch_size)),
        Share("sums for recalibration", CHANNEL_SUM_BYTES * reference_channels(patched)),
        Share("app", app_ram),
    )


def _core_shares(board: Board) -> tuple[Share, ...]:
    return (
        Share("stack", board.stack),
        Share("heap and interrupts", board.heap),
        Share("board's core", board.core_ram),
    )


def _flash_shares(board: Board, code: CodeSize, ops: ModelOps, model_bytes: int, *, trains: bool) -> tuple[Share, ...]:
    training = [op.registration for op in ops.training]
    kernels = code.flash(ops.builtin)
    program = (Share("model", model_bytes), Share("kernels", kernels), Share("TFLM", code.tflm))
    core = (Share("board's core", board.core_flash), Share("boot loader", board.boot_loader))
    if not trains:
        return (*program, *core)
    ours = (
        Share("training ops", code.flash([*ops.builtin, *training]) - kernels),
        Share("app", code.app),
    )
    return (*program, *ours, *core, Share("checkpoints", board.checkpoints))


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
