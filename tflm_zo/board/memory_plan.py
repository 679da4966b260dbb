# SPDX-License-Identifier: Apache-2.0
"""RAM and flash of a patched model on a board, and what to freeze where it does not fit."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any

from tflm_zo.board.arduino import (
    CHANNEL_SUM_BYTES,
    DEFAULT_BATCH,
    TFLM_LIBRARIES,
    arena_size,
    batch_bytes,
    board_trees,
    kept_sample_bytes,
    reference_channels,
)
from tflm_zo.board.arena import ARDUINO_32, TFLM_32, ArenaPlan, plan_arena
from tflm_zo.board.boards import Board, find_board
from tflm_zo.board.code_size import code_sizes
from tflm_zo.board.model_ops import model_ops
from tflm_zo.errors import ZoError
from tflm_zo.files import write_atomic
from tflm_zo.model.file import load_model
from tflm_zo.ops.names import NODE_OP, custom_code
from tflm_zo.patching.frozen_prefix import split
from tflm_zo.patching.patched_model import PatchedModel, read_patched

# Beside weights and momentum a checkpoint holds the training's progress, and its slot a header.
_PROGRESS_BYTES, _HEADER_BYTES = 16, 32


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

    The arena is counted structure by structure (:mod:`tflm_zo.board.arena`); what the board's core and compiled code
    take is measured (:mod:`tflm_zo.board.code_size`). Raises :class:`ZoError` if the model is not patched or has an op
    that TFLM lacks.
    """
    if tflm_library not in TFLM_LIBRARIES:
        raise ZoError(f"unknown TFLM library {tflm_library!r}: choose one of {', '.join(TFLM_LIBRARIES)}")
    device, recent = find_board(board), TFLM_LIBRARIES[tflm_library].recent
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
    training = [op.registration for op in ops.training]
    kernels = code.flash(ops.builtin)
    flash = (
        Share("model", len(patched.data if parts is None else parts.image)),
        Share("kernels", kernels),
        Share("TFLM", code.tflm),
        Share("training ops", code.flash([*ops.builtin, *training]) - kernels),
        Share("app", code.app),
        Share("board's core", device.core_flash),
        Share("boot loader", device.boot_loader),
        Share("checkpoints", device.checkpoints),
    )
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
        checkpoint_bytes=_HEADER_BYTES
        + _PROGRESS_BYTES
        + sum(p.arena_bytes + 4 * p.moments for p in patched.parameters),
        checkpoint_slot=device.checkpoints // 2,
        estimated_ops=(*arena.estimated_ops, *code.unknown(ops.builtin)),
        code_of="" if tflm_library in sizes else "chirale",
    )


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


def plan_text(plan: MemoryPlan) -> str:
    """Return the plan as a table of text."""
    lines = [plan.board.title]
    for title, shares, used, total in (
        ("RAM", plan.ram, plan.ram_used, plan.board.ram),
        ("flash", plan.flash, plan.flash_used, plan.board.flash),
    ):
        lines += ["", f"{title:28} {'bytes':>9}"]
        lines += [f"  {share.name:26} {share.size:9}" for share in shares]
        lines.append(f"  {'together':26} {used:9}  of {total}, {100 * used / total:.0f} %")
    lines += ["", f"arena: {plan.arena_bytes} bytes, of which TFLM uses {plan.arena.used}"]
    lines.append(f"checkpoint: {plan.checkpoint_bytes} bytes of a slot of {plan.checkpoint_slot}")
    if plan.checkpoint_bytes > plan.checkpoint_slot:
        lines.append("too large for its slot: train with --no-checkpoints, or freeze layers")
    if plan.estimated_ops:
        lines.append(f"estimated, because they were not measured: {', '.join(plan.estimated_ops)}")
    if plan.code_of:
        lines.append(f"code sizes are those of {plan.code_of}: this library was not measured")
    lines += ["", plan.advice or "it fits"]
    return "\n".join(lines)


def plan_picture(plan: MemoryPlan, path: str | os.PathLike[str]) -> None:
    """Write a picture (PNG) of the plan: both memories, and the activations over the pass.

    Raises :class:`ZoError` if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MultipleLocator
    except ImportError as error:
        raise ZoError("the picture needs matplotlib: pip install 'tflm-zo[demo]'") from error
    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.add_gridspec(3, 1, height_ratios=[1, 1, 2.4])
    for row, (title, shares, total) in enumerate(
        (("RAM", plan.ram, plan.board.ram), ("flash", plan.flash, plan.board.flash))
    ):
        axes = figure.add_subplot(grid[row])
        left = 0
        for number, share in enumerate(shares):
            axes.barh(0, share.size, left=left, color=f"C{number}", label=f"{share.name} {share.size / 1024:.1f} KB")
            left += share.size
        axes.axvline(total, color="black", linewidth=2)
        axes.set_xlim(0, 1.02 * max(left, total))
        axes.set_yticks([])
        axes.set_title(f"{plan.board.title}: {title} {left / 1024:.0f} of {total / 1024:.0f} KB", loc="left")
        axes.xaxis.set_major_locator(MultipleLocator(total / 8))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1024:.0f} KB")
        axes.legend(fontsize=7, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    axes = figure.add_subplot(grid[2])
    for number, buffer in enumerate(plan.arena.buffers):
        width, height = buffer.last - buffer.first + 1, buffer.size
        axes.bar(
            buffer.first - 0.5, height, width, bottom=buffer.offset, align="edge", color=f"C{number % 10}",
            edgecolor="white",
        )  # fmt: skip
    axes.set_title("activations and scratch memory over the operators of a pass", loc="left")
    axes.set_xlabel("operator")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value / 1024:.1f} KB")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_atomic(path, stream.getvalue())
