# SPDX-License-Identifier: Apache-2.0
"""Measures what compiled code takes on a board, for ``tflm-zo plan``, from the maps that the linker writes.

The plan compared with a firmware (``arduino-cli compile --build-path build Sketch`` leaves build/Sketch.ino.map):

    python tools/code_size.py check model_zo.tflite build/Sketch.ino.map --tflm-library chirale

The table for a TFLM library made anew. ``probes`` writes a sketch without ops, one for each op, and one that does
nothing; compile them all, then give the folder with their maps:

    python tools/code_size.py probes model_zo.tflite -o probes --tflm-library chirale
    for p in probes/*; do arduino-cli compile --fqbn arduino:mbed_nano:nano33ble --build-path build/${p##*/} $p; done
    python tools/code_size.py table build/*/*.map --tflm-library chirale --measured-with "arm-none-eabi-g++ 7.2.1 -Os"
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from tflm_zo.board.arduino import export_sketch
from tflm_zo.board.boards import board_names, find_board
from tflm_zo.board.memory_plan import plan_memory
from tflm_zo.board.tflm_libraries import TFLM_LIBRARIES
from tflm_zo.errors import ZoError
from tflm_zo.files import write_atomic

TABLE = Path(__file__).resolve().parents[1] / "tflm_zo" / "board" / "code_size.json"
# Probes without ops: the app; the same with a longer table of ops; an empty sketch.
BASE, WIDE, EMPTY = "Base", "Wide", "Empty"
WIDE_OPS = 17
BUFFER = 4096  # bytes that the probes have for the arena, and for samples
TRAINING = {"ParameterOp": "kParameterOpName", "NodeOp": "kNodeOpName", "LossOp": "kLossOpName"}
BUILTIN = """
AddAdd AddAveragePool2D AddConcatenation AddConv2D AddDepthwiseConv2D AddDequantize AddFullyConnected AddLogistic
AddMaxPool2D AddMean AddMul AddPad AddQuantize AddRelu AddReshape AddSoftmax AddStridedSlice AddSub AddTanh
""".split()  # noqa: SIM905

_RAM_START = 0x20000000  # of every Cortex-M
_NOT_IN_USE = {".heap", ".stack"}
_SIZES = r"\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)"


@dataclass(frozen=True)
class Firmware:
    """Bytes of flash (code, constants, initial values) and of static RAM, and how the flash divides on the sections of
    objects: (path of the object, name of the section)."""

    flash: int
    ram: int
    sections: Counter[tuple[str, str]]

    def of(self, pattern: str) -> int:
        """Flash of the objects whose path matches."""
        return sum(size for (path, _), size in self.sections.items() if re.search(pattern, path))


def read_map(path: Path) -> Firmware:
    """Return the sizes in a map that GNU ld wrote; paths of objects are relative to its folder, if they lie there.

    Raises :class:`ZoError` if the file is no map.
    """
    _, found, body = path.read_text().partition("Linker script and memory map")
    if not found:
        raise ZoError(f"{path} is no linker map: give the file that the option -Map of GNU ld wrote")
    folder = f"{path.resolve().parent}/"
    flash = ram = 0
    sections: Counter[tuple[str, str]] = Counter()
    section, in_flash = "", False
    # A long name stands on a line of its own.
    for line in re.sub(r"\n( ?\.[^\s]+)\n\s+0x", r"\n\1 0x", body).split("\n"):
        top = re.match(r"(\.\S+)" + _SIZES, line)
        part = re.match(r" (\.\S+)" + _SIZES + r"\s+(\S.*)", line)
        if top:
            section, address, size = top[1], int(top[2], 16), int(top[3], 16)
            debug = address == 0 and section != ".text"
            in_flash = not debug and (address < _RAM_START or section == ".data")
            flash += size if in_flash else 0
            ram += size if address >= _RAM_START and section not in _NOT_IN_USE else 0
        elif part and in_flash:
            sections[part[4].strip().removeprefix(folder), part[1]] += int(part[3], 16)
    return Firmware(flash, ram, sections)


def _probes(model: bytes, folder: Path, library: str) -> None:
    for name in (BASE, WIDE, *BUILTIN, *TRAINING):
        export_sketch(model, folder / name, tflm_library=library, force=True)
        if name in (BASE, WIDE):
            body = "true"
        elif name in TRAINING:
            body = f"tflm_zo::AddOp(&ops_, tflm_zo::{TRAINING[name]}, tflm_zo::{name}())"
        else:
            body = f"ops_.{name}() == kTfLiteOk"
        path = folder / name / "model_ops.h"
        text = re.sub(r"return ops_\.Add.*?;|return tflm_zo.*?;", f"return {body};", path.read_text(), flags=re.DOTALL)
        path.write_text(re.sub(r"OpResolver<\d+>", f"OpResolver<{WIDE_OPS if name == WIDE else 1}>", text))
        path = folder / name / "model.h"
        path.write_text(re.sub(r"(kArenaBytes|kBatchBytes) = \d+", rf"\1 = {BUFFER}", path.read_text()))
    (folder / EMPTY).mkdir(parents=True, exist_ok=True)
    (folder / EMPTY / f"{EMPTY}.ino").write_text("void setup() {}\nvoid loop() {}\n")


def make_table(maps: dict[str, Firmware], measured_with: str) -> dict[str, object]:
    """Return a library's entry of the table from the maps of the probes by their names."""
    base, empty = maps[BASE], maps[EMPTY]
    own = r"tflm_zo/[^/]*\.o$|\.ino\.cpp\.o$"
    model = r"model\.cpp\.o$"
    shared: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)  # section: what it takes with each op
    groups: Counter[tuple[str, ...]] = Counter()
    for op in sorted(set(maps) - {BASE, WIDE, EMPTY}):
        firmware = maps[op]
        alone = firmware.flash - base.flash
        for section, size in firmware.sections.items():
            if section not in base.sections and size:
                shared[section][op] = size
                alone -= size
        groups[(op,)] += alone  # sections that exist without the op and grow by it, and padding
    for sizes in shared.values():
        groups[tuple(sorted(sizes))] += max(sizes.values())
    app = base.of(own)
    op_ram = (maps[WIDE].ram - base.ram) // (WIDE_OPS - 1)
    return {
        "measured_with": measured_with,
        "app": app,
        "tflm": base.flash - empty.flash - base.of(model) - app,
        "app_ram": base.ram - empty.ram - 2 * BUFFER - op_ram,
        "op_ram": op_ram,
        "groups": [[*ops, size] for ops, size in sorted(groups.items()) if size],
    }


def _check(model: bytes, firmware: Firmware, empty: Firmware | None, arguments: argparse.Namespace) -> None:
    """Print the plan's numbers beside the firmware's."""
    plan = plan_memory(model, arguments.board, tflm_library=arguments.tflm_library, batch_size=arguments.batch_size)
    board = find_board(arguments.board)
    flash = plan.flash_used - board.boot_loader - board.checkpoints
    ram = plan.ram_used - board.heap
    if empty is not None:
        flash += empty.flash - board.core_flash
        ram += empty.ram - board.core_ram - board.stack
    for name, planned, real in (("flash", flash, firmware.flash), ("static RAM", ram, firmware.ram)):
        print(f"{name:10}  plan {planned:7}  firmware {real:7}  {100 * (planned - real) / real:+.2f} %")


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="compare the plan with a firmware")
    check.add_argument("model", type=Path)
    check.add_argument("map", type=Path)
    check.add_argument("--empty", type=Path, help="map of an empty sketch, to leave the core out of the comparison")
    check.add_argument("--board", choices=board_names(), default="nano33ble")
    check.add_argument("--batch-size", type=int, default=16)
    probes = commands.add_parser("probes", help="write the sketches to measure")
    probes.add_argument("model", type=Path, help="any patched model with weights to train")
    probes.add_argument("-o", "--output", type=Path, required=True)
    table = commands.add_parser("table", help="make the table from their maps")
    table.add_argument("maps", type=Path, nargs="+")
    table.add_argument("--measured-with", required=True, help="compiler and options")
    for command in (check, probes, table):
        command.add_argument("--tflm-library", choices=list(TFLM_LIBRARIES), default="chirale")
    arguments = parser.parse_args()
    try:
        if arguments.command == "check":
            empty = read_map(arguments.empty) if arguments.empty else None
            _check(arguments.model.read_bytes(), read_map(arguments.map), empty, arguments)
        elif arguments.command == "probes":
            _probes(arguments.model.read_bytes(), arguments.output, arguments.tflm_library)
        else:
            maps = {path.name.split(".")[0]: read_map(path) for path in arguments.maps}
            entries = json.loads(TABLE.read_text()) if TABLE.exists() else {}
            entries[arguments.tflm_library] = make_table(maps, arguments.measured_with)
            # A line for each group.
            # Lists of numbers on one line each.
            text = json.dumps(entries, indent=1)
            text = re.sub(r"\[\s+([^\[\]]*?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
            write_atomic(TABLE, (text + "\n").encode())
    except (ZoError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
