# SPDX-License-Identifier: Apache-2.0
"""Builds and runs the C++ tests of tests/cpp, for the host, for Linux on aarch64 and a Cortex-M4F, both in QEMU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from build_once import BuildOnce

pytestmark = pytest.mark.slow  # builds all programs

SOURCE = Path(__file__).parent / "cpp"
PROGRAMS = sorted(path.stem for path in SOURCE.glob("test_*.cc"))
# The simulator is not for boards.
HOST_PROGRAMS = PROGRAMS + sorted(path.stem for path in SOURCE.glob("simulator/test_*.cc"))

ARM_COMPILER = "arm-none-eabi-g++"
ARM_EMULATOR = "qemu-system-arm"
ARM_PACKAGES = "gcc-arm-none-eabi libnewlib-arm-none-eabi libstdc++-arm-none-eabi-newlib qemu-system-arm"
AARCH64_TOOLS = ("aarch64-linux-gnu-g++", "qemu-aarch64")
AARCH64_PACKAGES = "g++-aarch64-linux-gnu qemu-user"


def run(*command: str | Path) -> None:
    """Run a command; fail with all it printed if its status is not 0."""
    result = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode != 0:
        words = " ".join(map(str, command))
        pytest.fail(f"{words} ended with {result.returncode}:\n{result.stdout}", pytrace=False)


def missing_for_arm(folder: Path) -> str | None:
    """Return what keeps C++ programs from being built for Arm and run, or None."""
    for tool in (ARM_COMPILER, ARM_EMULATOR):
        if shutil.which(tool) is None:
            return f"no {tool}"
    # Debian has the compiler, its C library and its C++ library in separate packages.
    source = folder / "probe.cc"
    source.write_text("#include <cstring>\n#include <type_traits>\nint main() {}\n")
    probe = [ARM_COMPILER, "--specs=nano.specs", "--specs=nosys.specs", source.name, "-o", "probe"]
    if subprocess.run(probe, cwd=folder, capture_output=True).returncode != 0:
        return f"{ARM_COMPILER} lacks newlib-nano for C++"
    return None


def build(folder: Path, *options: str) -> None:
    run("cmake", "-S", SOURCE, "-B", folder, *options)
    run("cmake", "--build", folder, "-j", "2")


@pytest.fixture(scope="session")
def x86_build(build_once: BuildOnce) -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake: install cmake")
    return build_once("cpp_x86", build)


@pytest.fixture(scope="session")
def arm_build(build_once: BuildOnce, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake: install cmake")
    missing = missing_for_arm(tmp_path_factory.mktemp("probe"))
    if missing is not None:
        pytest.skip(f"{missing}: install {ARM_PACKAGES}")
    toolchain = SOURCE / "cortex_m4f.cmake"
    return build_once("cpp_arm", lambda folder: build(folder, f"-DCMAKE_TOOLCHAIN_FILE={toolchain}"))


@pytest.fixture(scope="session")
def aarch64_build(build_once: BuildOnce) -> Path:
    for tool in ("cmake", *AARCH64_TOOLS):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: install cmake {AARCH64_PACKAGES}")
    toolchain = SOURCE / "aarch64_linux.cmake"
    return build_once("cpp_aarch64", lambda folder: build(folder, f"-DCMAKE_TOOLCHAIN_FILE={toolchain}"))


def run_program(build_folder: Path, program: str) -> None:
    pattern = f"^{program}$"
    run("ctest", "--test-dir", build_folder, "-R", pattern, "-V", "--no-tests=error")


@pytest.mark.parametrize("program", HOST_PROGRAMS)
def test_x86(x86_build: Path, program: str) -> None:
    run_program(x86_build, program)


@pytest.mark.parametrize("program", HOST_PROGRAMS)
def test_aarch64(aarch64_build: Path, program: str) -> None:
    run_program(aarch64_build, program)


@pytest.mark.parametrize("program", PROGRAMS)
def test_cortex_m4f(arm_build: Path, program: str) -> None:
    run_program(arm_build, program)
