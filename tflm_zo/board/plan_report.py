# SPDX-License-Identifier: Apache-2.0
"""A memory plan as text and as a picture."""

from __future__ import annotations

import io
import os

from tflm_zo.board.memory_plan import MemoryPlan
from tflm_zo.errors import ZoError
from tflm_zo.files import write_atomic


def plan_text(plan: MemoryPlan) -> str:
    """Return the plan as a table of text."""
    lines = [plan.board.title if plan.trains else f"{plan.board.title}: inference alone, the model is not patched"]
    for title, shares, used, total in (
        ("RAM", plan.ram, plan.ram_used, plan.board.ram),
        ("flash", plan.flash, plan.flash_used, plan.board.flash),
    ):
        lines += ["", f"{title:28} {'bytes':>9}"]
        lines += [f"  {share.name:26} {share.size:9}" for share in shares]
        lines.append(f"  {'together':26} {used:9}  of {total}, {100 * used / total:.0f} %")
    lines += ["", f"arena: {plan.arena_bytes} bytes, of which TFLM uses {plan.arena.used}"]
    if plan.trains:
        lines.append(f"checkpoint: {plan.checkpoint_bytes} bytes of a slot of {plan.checkpoint_slot}")
    if plan.checkpoint_bytes > plan.checkpoint_slot:
        lines.append("too large for its slot: train with --no-checkpoints, or freeze layers")
    if plan.estimated_ops:
        lines.append(f"estimated, because they were not measured: {', '.join(plan.estimated_ops)}")
    if plan.code_of:
        lines.append(f"code sizes are those of {plan.code_of}: this library was not measured")
    fits = "it fits" if plan.trains else "it fits, beside a program of your own of what is left"
    lines += ["", plan.advice or fits]
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
