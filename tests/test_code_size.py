# SPDX-License-Identifier: Apache-2.0
"""tools/code_size.py: sizes from linker maps, and the table made of them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import small_models

from tflm_zo.board.arduino import export_sketch
from tflm_zo.board.code_size import code_size, code_sizes
from tflm_zo.errors import ZoError
from tflm_zo.patching.patch import patch

REPOSITORY = Path(__file__).resolve().parents[1]
ARM = "arm-none-eabi-g++"
OPTIONS = "-mthumb -mcpu=cortex-m4 -Os -ffunction-sections -fdata-sections -fno-exceptions -nostdlib".split()  # noqa: SIM905
LINK = ["-nostartfiles", "-Wl,--gc-sections", "-T", str(REPOSITORY / "tests/cpp/qemu/mps2_an386.ld")]

KERNELS = {
    "common": "int common(int x) { volatile int y = x; return y * 3 + 1; }",
    "conv": "extern const int table[64]; const int table[64] = {1, 2}; int common(int);"
    " int conv(int x) { return common(x) + table[x & 63]; }",
    "pool": "int common(int); int pool(int x) { return common(x) * 7; }",
    "unused": "int unused(int x) { return x * 5; }",
}
MAIN = (
    "int buffer[100]; int initial[10] = {1, 2, 3}; int common(int); int conv(int); int pool(int);"
    ' extern "C" int main() { return buffer[initial[2]] %s; } extern "C" void Reset_Handler() { main(); }'
)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("code_size_tool", REPOSITORY / "tools/code_size.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def link(folder: Path, calls: str) -> tuple[Path, dict[str, int]]:
    """Link a small firmware; return its map and the sizes of its sections."""
    folder.mkdir()
    objects = []
    for name, text in (KERNELS | {"main": MAIN % calls}).items():
        (folder / f"{name}.cpp").write_text(text)
        objects.append(str(folder / f"{name}.o"))
        subprocess.run([ARM, *OPTIONS, "-c", folder / f"{name}.cpp", "-o", objects[-1]], check=True)
    elf, written = folder / "firmware.elf", folder / "firmware.map"
    subprocess.run(
        [ARM, *OPTIONS, *LINK, "-Wl,-e,Reset_Handler", f"-Wl,-Map={written}", *objects, "-o", elf], check=True
    )
    listing = subprocess.run(["arm-none-eabi-size", "-A", elf], capture_output=True, text=True, check=True).stdout
    sections = {line.split()[0]: int(line.split()[1]) for line in listing.splitlines() if line.startswith(".")}
    return written, sections


@pytest.mark.skipif(not shutil.which(ARM), reason=f"no {ARM}")
def test_table_of_a_small_firmware(tool: ModuleType, tmp_path: Path) -> None:
    calls = {"Empty": "", "Base": "+ 1", "Wide": "+ 1", "AddConv2D": "+ 1 + conv(2)", "AddPool": "+ 1 + pool(3)"}
    maps = {}
    for name, call in (calls | {"Both": "+ 1 + conv(2) + pool(3)"}).items():
        path, sections = link(tmp_path / name, call)
        maps[name] = tool.read_map(path)
        in_flash = [s for s in sections if s.startswith((".text", ".rodata", ".ARM.ex", ".data", ".vectors", ".isr"))]
        assert maps[name].flash == sum(sections[s] for s in in_flash)
        assert maps[name].ram == sections[".bss"] + sections[".data"]
        assert maps[name].of(r"unused\.o") == 0
    both = maps.pop("Both")
    size = code_size(tool.make_table(maps, "this compiler"))
    # The code that both share is in the table once, and the two together come out as linked.
    assert any(names == {"AddConv2D", "AddPool"} for names, _ in size.groups)
    assert abs(maps["Base"].flash + size.flash(["AddConv2D", "AddPool"]) - both.flash) <= 16
    assert size.flash(["AddConv2D"]) > 256  # with its table


@pytest.mark.skipif(not shutil.which(ARM), reason=f"no {ARM}")
def test_table_is_of_the_present_sources(tmp_path: Path) -> None:
    """Ops and app, compiled here, are about what the table says: measure it anew when they have grown."""
    export_sketch(patch(small_models.small_model(), "all"), tmp_path / "Sketch")
    sources = [s for s in (tmp_path / "Sketch/src/tflm_zo").glob("*.cpp") if s.name != "training_stream.cpp"]
    for source in sources:
        options = [*OPTIONS, "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard", "-std=gnu++14", "-fno-rtti"]
        subprocess.run(
            [ARM, *options, "-DTFLM_ZO_USE_OWN_ABI", "-c", source, "-o", tmp_path / f"{source.stem}.o"], check=True
        )
    objects = sorted(tmp_path.glob("*.o"))
    listing = subprocess.run(["arm-none-eabi-size", *objects], capture_output=True, text=True, check=True).stdout
    compiled = sum(int(line.split()[0]) for line in listing.splitlines()[1:])
    size = code_sizes()["chirale"]
    measured = size.app + size.flash(["ParameterOp", "NodeOp", "LossOp"])
    # What is in the table only: the program's own file, with the templates of TFLM that it instantiates.
    assert 0.8 * measured < compiled < 0.97 * measured


def test_what_is_no_map(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.elf").write_text("ELF")
    with pytest.raises(ZoError, match="no linker map"):
        tool.read_map(tmp_path / "a.elf")
