# SPDX-License-Identifier: Apache-2.0
"""Programs that train an exported model in TFLM's C++ interpreter: builds and runs them (micro_app/tflm/README.md).

TFLM_ROOT names the folder with TFLM's headers and libraries. TFLM_LIBRARY=chirale or arduino-examples says that these
are of an Arduino library: an older TFLM, with CMSIS-NN's kernels on every processor.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tflm_zo.board.arduino import export_sketch
from tflm_zo.board.tflm_libraries import TFLM_LIBRARIES
from tflm_zo.errors import ZoError

REPOSITORY = Path(__file__).resolve().parents[1]
ROOT = Path(os.environ.get("TFLM_ROOT", ""))
LIBRARY = os.environ.get("TFLM_LIBRARY", "tree")
RECENT = TFLM_LIBRARIES[LIBRARY].recent
ARM_TOOLS = ("arm-none-eabi-g++", "qemu-system-arm")

_INSTRUCTIONS_A_TICK = 40  # of the board's 25 MHz timer, where an instruction takes a nanosecond


@dataclass(frozen=True)
class Outcome:
    """What a program printed and wrote. ``instructions`` are those of the whole program, if they were counted."""

    arena_used: int
    right: list[int]
    passes: int
    frozen_runs: int
    weights: bytes
    instructions: int | None


def missing(variant: str, arm: bool) -> str | None:
    """What is not there to build and run programs for a folder of TFLM_ROOT/lib; None: all is."""
    if not os.environ.get("TFLM_ROOT"):
        return "TFLM_ROOT is not set: no TFLM to link"
    if not (ROOT / "lib" / variant / "libtensorflow-microlite.a").is_file():
        return f"TFLM_ROOT has no lib/{variant}"
    tools = ("cmake", *(ARM_TOOLS if arm else ()))
    return next((f"no {tool}" for tool in tools if shutil.which(tool) is None), None)


def build(variant: str, arm: bool, model: bytes, folder: Path) -> Path:
    """Export the model, link it with a TFLM, return the program. Raises :class:`ZoError` if a command fails."""
    export_sketch(model, folder / "Sketch", tflm_library=LIBRARY, force=True)
    options = [f"-DTFLM_ROOT={ROOT}", f"-DTFLM_ZO_SKETCH={folder / 'Sketch'}", f"-DTFLM_VARIANT={variant}"]
    options.append(f"-DTFLM_STATIC_MEMORY={'ON' if RECENT else 'OFF'}")
    if arm:
        options.append(f"-DCMAKE_TOOLCHAIN_FILE={REPOSITORY / 'tests/cpp/cortex_m4f.cmake'}")
    _run("cmake", "-S", REPOSITORY / "micro_app/tflm", "-B", folder / "build", *options)
    _run("cmake", "--build", folder / "build")
    return folder / "build/train_stream"


def train(program: Path, arm: bool, stream: bytes, *, count_instructions: bool = False) -> Outcome:
    """Carry the stream out, return what came of it; instructions can be counted on Arm, which takes longer.

    Raises :class:`ZoError` with what the program printed if it fails.
    """
    recorded, weights = program.with_name("run.zos"), program.with_name("weights.bin")
    recorded.write_bytes(stream)
    if arm:
        files = f"enable=on,arg=train_stream,arg={recorded},arg={weights}"
        emulator = ["qemu-system-arm", "-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial", "none"]
        emulator += ["-icount", "shift=0"] if count_instructions else []
        text = _run(*emulator, "-semihosting-config", files, "-kernel", program)
    else:
        text = _run(program, recorded, weights)
    used = re.search(r"arena (\d+) of", text)
    passes = re.search(r"(\d+) passes", text)
    frozen_runs = re.search(r"frozen layers ran (\d+) times", text)
    ticks = re.search(r"timer (\d+) ticks", text)
    assert used is not None and passes is not None, text
    return Outcome(
        arena_used=int(used[1]),
        right=[int(n) for n in re.findall(r": (\d+) right", text)],
        passes=int(passes[1]),
        frozen_runs=0 if frozen_runs is None else int(frozen_runs[1]),
        weights=weights.read_bytes(),
        instructions=int(ticks[1]) * _INSTRUCTIONS_A_TICK if ticks is not None and count_instructions else None,
    )


def _run(*command: str | Path) -> str:
    result = subprocess.run([str(w) for w in command], capture_output=True, text=True)
    if result.returncode != 0:
        raise ZoError(f"{' '.join(map(str, command))} failed:\n{result.stdout}\n{result.stderr}")
    return result.stdout
