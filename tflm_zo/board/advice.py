# SPDX-License-Identifier: Apache-2.0
"""What to do about a model that does not fit a board: the memory with the largest excess first."""

from __future__ import annotations

from dataclasses import dataclass

from tflm_zo.board.boards import Board
from tflm_zo.board.memory import Share, kept_sample_bytes
from tflm_zo.patching.frozen_prefix import SplitModel
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.tflm.arena import ArenaPlan

_SMALLER = "a smaller input or fewer channels, or a larger board"


@dataclass(frozen=True)
class Situation:
    """What a plan has counted. ``patched`` is None for inference alone; ``layers``: RAM (bytes) that freezing a layer
    would free."""

    board: Board
    ram: tuple[Share, ...]
    flash: tuple[Share, ...]
    arena: ArenaPlan
    patched: PatchedModel | None
    parts: SplitModel | None
    layers: dict[str, int]
    batch_size: int

    @property
    def ram_excess(self) -> int:
        """Bytes of RAM that are too many, negative where some are left."""
        return sum(share.size for share in self.ram) - self.board.ram

    @property
    def flash_excess(self) -> int:
        """Bytes of flash that are too many, negative where some are left."""
        return sum(share.size for share in self.flash) - self.board.flash


def advice(situation: Situation) -> str:
    """Return what is too much, the largest excess first, and what would help; '' if all fits."""
    found = []
    if situation.ram_excess > 0:
        found.append((situation.ram_excess, f"{situation.ram_excess} bytes of RAM too much: {_for_ram(situation)}"))
    if situation.flash_excess > 0:
        found.append((situation.flash_excess, _for_flash(situation)))
    return ". And ".join(text for _, text in sorted(found, reverse=True))


def _for_flash(situation: Situation) -> str:
    excess = situation.flash_excess
    reserved = " (the end of it is for checkpoints)" if situation.patched is not None else ""
    model = next(share.size for share in situation.flash if share.name == "model")
    room = model - excess
    helps = (
        f"the model must be smaller, {room} bytes instead of {model}: fewer or narrower layers"
        if room > 0
        else f"the program alone is too large beside a model of {model} bytes: a larger board"
    )
    return f"{excess} bytes of flash too much{reserved}: {helps}"


def _for_ram(situation: Situation) -> str:
    ram, batch_size, patched = situation.ram_excess, situation.batch_size, situation.patched
    if patched is None:
        return _activations(situation)
    sample_bytes = kept_sample_bytes(patched, situation.parts)
    ways = []
    fewer = batch_size - -(-ram // sample_bytes)
    if fewer >= 1:
        ways.append(f"train on at most {fewer} samples a step (--batch-size {fewer})")
    freeze = _freezing(ram, situation.layers, patched)
    if freeze:
        ways.append(freeze)
    if not ways and batch_size > 1:
        freeze = _freezing(ram - (batch_size - 1) * sample_bytes, situation.layers, patched)
        if freeze:
            ways.append(f"train on one sample a step (--batch-size 1), and {freeze}")
    return "; or ".join(ways) or _largest(situation)


def _largest(situation: Situation) -> str:
    """The largest part of the RAM that a model has a say in, where neither batch nor frozen layers are enough."""
    shares = {share.name: share.size for share in situation.ram}
    name = max(("activations", "trainable weights", "samples of a step"), key=lambda name: shares[name])
    if name == "activations":
        return _activations(situation)
    fewer = {
        "trainable weights": "fewer of them (--trainable), " if len(situation.layers) > 1 else "",
        "samples of a step": "fewer of them (--batch-size), ",
    }
    return f"its {name} of {shares[name]} bytes are too large for the board: {fewer[name]}{_SMALLER}"


def _activations(situation: Situation) -> str:
    """Where the activations need the most, which is what must become smaller."""
    buffers = situation.arena.buffers
    last = max((buffer.last for buffer in buffers), default=0)

    def live(step: int) -> int:
        return sum(buffer.size for buffer in buffers if buffer.first <= step <= buffer.last)

    worst = max(range(last + 1), key=live)
    largest = max((b for b in buffers if b.first <= worst <= b.last), key=lambda b: b.size, default=None)
    where = "" if largest is None else f" (most at operator {worst}, of it {largest.size} bytes of {largest.name!r})"
    return f"its activations of {situation.arena.activations} bytes are too large for the board{where}: {_SMALLER}"


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
