# SPDX-License-Identifier: Apache-2.0
"""Exported sketches and the Arduino library.

With TFLM_ZO_ARDUINO_LIBS naming TFLM libraries for Arduino (folders with src/) or trees of TFLM (folders with
tensorflow/), separated as in PATH, every file of an exported sketch is compiled against each of them, for this machine
and for a Cortex-M4F.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
import small_models
from click.testing import CliRunner

import tflm_zo
from tflm_zo.board import arduino_cli, sources
from tflm_zo.board.arduino import Export, example_names, export_library, export_sketch
from tflm_zo.board.memory_plan import plan_memory
from tflm_zo.board.model_ops import add_method, model_ops
from tflm_zo.board.tflm_libraries import TFLM_LIBRARIES, TflmLibrary
from tflm_zo.cli.board import export as export_command
from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model, save_model, schema
from tflm_zo.ops.names import NODE_OP
from tflm_zo.patching.frozen_prefix import split
from tflm_zo.patching.patch import patch
from tflm_zo.patching.patched_model import read_patched

ARDUINO_CORE = Path(__file__).parent / "arduino_core"
REPOSITORY = Path(__file__).resolve().parents[1]
ARM = ["arm-none-eabi-g++", "-mthumb", "-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"]
# What Arduino's core of the Nano 33 BLE compiles with; warnings are errors for our files only. A current TFLM needs a
# later standard than that core.
OPTIONS = ["-std=gnu++14", "-Os", "-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra", "-Werror", "-c"]
DEFINITIONS = ["-DARDUINO=10819", "-DARDUINO_ARCH_MBED", "-DARDUINO_ARCH_MBED_NANO", "-DARDUINO_ARDUINO_NANO33BLE"]


@pytest.fixture(scope="module")
def patched() -> bytes:
    # One scale for the dense layer: with more, another layer is exported in its place (test_library_model.py).
    return patch(small_models.small_model(per_channel=False), "all", adapter=True)


@pytest.fixture(scope="module")
def sketch(patched: bytes, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Export]:
    folder = tmp_path_factory.mktemp("export") / "MySketch"
    return folder, export_sketch(patched, folder)


def compile_file(compiler: list[str], source: Path, output: Path, *options: str) -> None:
    command = [*compiler, *OPTIONS, *options, str(source), "-o", str(output)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{result.stderr}", pytrace=False)


def compilers() -> list[list[str]]:
    return [c for c in (["g++"], ARM) if shutil.which(c[0])]


# -- what is in the folder ---------------------------------------------------------------------------------


def test_the_model_is_in_it_byte_for_byte(patched: bytes, sketch: tuple[Path, Export]) -> None:
    folder, export = sketch
    text = (folder / "model.cpp").read_text()
    assert array_in(text) == patched
    assert "alignas(16) static const" in text
    assert "kModel = kImage;" in text
    assert "kRestModel = kImage;" in text
    assert "kFrozenModel = nullptr;" in text
    header = (folder / "model.h").read_text()
    digest = hashlib.sha256(patched).hexdigest()
    assert digest in header
    assert f"0x{digest[:16]}u" in header
    assert f"kModelBytes = {len(patched)};" in header
    assert f"kArenaBytes = {export.arena_bytes};" in header
    assert export.arena_bytes % 16 == 0


def test_frozen_layers_in_front_are_models_in_the_same_array(tmp_path: Path) -> None:
    """The patched model is there byte for byte, and in front of it tables that make two models of its constants."""
    model = patch(small_models.small_model(per_channel=False), "exact")
    export_sketch(model, tmp_path / "Sketch", batch_size=5)
    text = (tmp_path / "Sketch/model.cpp").read_text()
    image = array_in(text)
    offsets = dict(re.findall(r"(k\w+Model|kModel) = kImage \+ (\d+);", text))
    assert image[int(offsets["kModel"]) :] == model
    parts = split(model)
    assert parts is not None
    assert (image, image[int(offsets["kFrozenModel"]) :]) == (parts.suffix, parts.prefix)
    assert "kRestModel = kImage;" in text
    assert len(image) < len(model) + 1200
    header = (tmp_path / "Sketch/model.h").read_text()
    assert "kInputBytes = 64;" in header
    # What leads on has 96 bytes, a sample 64: samples are kept.
    assert f"kBatchBytes = {5 * 68};" in header
    export_sketch(patch(small_models.small_model(), "head"), tmp_path / "Head", batch_size=5)
    assert f"kBatchBytes = {68 + 4 * 28};" in (tmp_path / "Head/model.h").read_text()


def array_in(source: str) -> bytes:
    """The bytes of the array in model.cpp."""
    return bytes(int(n) for n in re.findall(r"\d+", source[source.index("{") : source.index("}")]))


def test_sizes_of_samples(patched: bytes, tmp_path: Path) -> None:
    export_sketch(patched, tmp_path / "a", batch_size=5)
    header = (tmp_path / "a" / "model.h").read_text()
    assert "kInputBytes = 64;" in header
    assert "kTargetBytes = 4;" in header
    assert f"kBatchBytes = {5 * 68};" in header
    export_sketch(patch(small_models.dense_model("none", outputs=5), "head", "mse"), tmp_path / "b")
    assert "kTargetBytes = 5;" in (tmp_path / "b" / "model.h").read_text()


@pytest.mark.parametrize("reference", [False, True])
def test_sums_for_recalibration(tmp_path: Path, reference: bool) -> None:
    before = np.zeros((2, 8, 8, 1), np.int8) if reference else None
    model = patch(small_models.small_model(), "all", adapter=True, reference=before)
    export_sketch(model, tmp_path / "Sketch")
    channels = 8 if reference else 0
    assert constant((tmp_path / "Sketch/model.h").read_text(), "kReferenceChannels") == str(channels)
    shares = {share.name: share.size for share in plan_memory(model).ram}
    assert shares["sums for recalibration"] == 16 * channels


def constant(header: str, name: str) -> str:
    found = re.search(rf"constexpr .*\b{name}(?:\[\])? = (.*);", header)
    assert found is not None, name
    return found[1]


def test_input_and_classes_are_those_of_the_model(patched: bytes, sketch: tuple[Path, Export], tmp_path: Path) -> None:
    """What a sketch needs to feed its own measurements to the model."""
    header = (sketch[0] / "model.h").read_text()
    model = read_patched(patched)
    assert constant(header, "kInputShape") == "{1, 8, 8, 1}"
    assert constant(header, "kInputIsInt8") == "true"
    assert model.input_quantization is not None
    scale = constant(header, "kInputScale")
    assert np.float32(scale.rstrip("f")) == np.float32(model.input_quantization.scale)
    assert int(constant(header, "kInputZeroPoint")) == model.input_quantization.zero_point
    assert constant(header, "kClasses") == "3"
    for name, end, outputs, classes in (("a", "logistic", 1, "2"), ("b", "none", 1, "0"), ("c", "none", 5, "5")):
        export_sketch(patch(small_models.dense_model(end, outputs=outputs), "head"), tmp_path / name)
        assert constant((tmp_path / name / "model.h").read_text(), "kClasses") == classes


@pytest.mark.parametrize(
    ("trainable", "loss", "limit", "nodes"),
    [
        ("exact", "auto", 3.0, (1, 2)),
        ("all", "auto", 3.0, (2, 3)),
        ("exact", "entropy", 0.2, (1, 2)),
        ("head", "auto", 3.0, (0, 0)),
    ],
)
def test_what_rates_are_measured_with(
    tmp_path: Path, trainable: str, loss: str, limit: float, nodes: tuple[int, int]
) -> None:
    model = patch(small_models.small_model(), trainable, loss=loss)
    export_sketch(model, tmp_path / "Sketch")
    header = (tmp_path / "Sketch/model.h").read_text()
    assert float(constant(header, "kHeadLimit").rstrip("f")) == pytest.approx(limit, rel=1e-7)
    exact = range(int(constant(header, "kFirstExactNode")), int(constant(header, "kLastExactNode")))
    assert (exact.start, exact.stop) == nodes
    assert [n.closed_form for n in read_patched(model).nodes] == [
        n in exact for n in range(len(read_patched(model).nodes))
    ]


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
@pytest.mark.parametrize("example", example_names())
@pytest.mark.parametrize("library", [lib for name, lib in TFLM_LIBRARIES.items() if name != "tree"])
def test_the_first_missing_header_names_the_library(
    library: TflmLibrary, example: str, patched: bytes, tmp_path: Path
) -> None:
    """Arduino finds a library by a header that is missing, if that header lies at the top of the library: not by
    those under tensorflow/. So the library's own must be asked for before all others."""
    key = next(name for name, lib in TFLM_LIBRARIES.items() if lib is library)
    export_sketch(patched, tmp_path / "Sketch", example=example, tflm_library=key)
    command = ["g++", "-E", "-x", "c++", *DEFINITIONS, "-include", str(ARDUINO_CORE / "Arduino.h")]
    result = subprocess.run([*command, tmp_path / "Sketch" / "Sketch.ino"], capture_output=True, text=True)
    missing = re.search(r"fatal error: (\S+): No such file", result.stderr)
    assert missing is not None
    assert missing[1] == library.header


def test_resolver_has_exactly_the_ops_of_the_model(patched: bytes, sketch: tuple[Path, Export]) -> None:
    folder, _ = sketch
    header = (folder / "model_ops.h").read_text()
    tree = load_model(patched)
    codes = {max(c.builtinCode, c.deprecatedBuiltinCode) for c in tree.operatorCodes}
    names = {name for name, value in vars(schema.BuiltinOperator).items() if value in codes} - {"CUSTOM"}
    methods = {add_method(name) for name in names}
    assert set(re.findall(r"ops_\.(Add\w+)\(\)", header)) == methods
    training = set(re.findall(r"tflm_zo::(\w+Op)\(\)", header))
    assert training == {"ParameterOp", "NodeOp", "LossOp"}
    assert f"MicroMutableOpResolver<{len(methods) + len(training)}>" in header


def test_an_op_that_the_model_does_not_use_is_not_registered() -> None:
    ops = model_ops(load_model(patch(small_models.dense_model(), "head")))
    assert "AddConv2D" not in ops.builtin
    assert {op.registration for op in ops.training} == {"ParameterOp", "LossOp"}


def test_sources_are_those_of_the_repository(sketch: tuple[Path, Export]) -> None:
    """The copies differ from the originals by the compiler option alone."""
    folder, _ = sketch
    originals = {p.stem + p.suffix.replace(".cc", ".cpp"): p for p in (REPOSITORY / "kernels").glob("*.[hc]*")}
    originals |= {
        p.stem + p.suffix.replace(".cc", ".cpp"): p for p in (REPOSITORY / "micro_app/src/app").glob("*.[hc]*")
    }
    copies = sorted((folder / "src" / "tflm_zo").iterdir())
    assert {"parameter_op.cpp", "on_device_trainer.cpp", "schedule.h"} <= {c.name for c in copies}
    assert not {"host_plugin.cpp", "host_api.cpp", "host_export.h"} & {c.name for c in copies}
    for copy in copies:
        assert copy.read_bytes().endswith(originals[copy.name].read_bytes())
        assert len(copy.read_bytes()) - originals[copy.name].stat().st_size < 100


def test_exporting_again_replaces_only_its_own_files(patched: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "Sketch"
    export_sketch(patched, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "model.h").write_text("old")
    export_sketch(patched, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert "kModelBytes" in (folder / "model.h").read_text()


def test_library_follows_the_specification(patched: bytes, tmp_path: Path) -> None:
    names = export_library(tmp_path / "lib", patched)
    properties = dict(line.split("=", 1) for line in (tmp_path / "lib/library.properties").read_text().splitlines())
    required = {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"}
    assert required <= set(properties)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]*", properties["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", properties["version"])
    assert properties["version"] == tflm_zo.__version__
    assert (tmp_path / "lib/src" / properties["includes"]).is_file()
    for line in (tmp_path / "lib/keywords.txt").read_text().splitlines():
        assert not line or line.startswith("#") or re.fullmatch(r"\w+\t(KEYWORD[12]|LITERAL1)", line)
    for example in example_names():
        assert f"examples/{example}/{example}.ino" in names
        assert f"examples/{example}/model.cpp" in names
    assert not any(name.startswith("examples/") for name in export_library(tmp_path / "bare"))


# -- does it compile ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
def test_sources_compile_as_one_flat_folder(sketch: tuple[Path, Export], tmp_path: Path) -> None:
    folder, _ = sketch
    files = [*(folder / "src" / "tflm_zo").glob("*.cpp"), folder / "model.cpp"]
    for source in files:
        compile_file(["g++"], source, tmp_path / "out.o", "-DTFLM_ZO_USE_OWN_ABI")


@pytest.mark.skipif(not shutil.which(ARM[0]), reason=f"no {ARM[0]}: install gcc-arm-none-eabi")
def test_no_fused_multiply_add_without_compiler_options(sketch: tuple[Path, Export], tmp_path: Path) -> None:
    """Arduino compiles with contraction; the copies switch it off themselves. The original would be fused."""
    folder, _ = sketch

    def fused(source: Path) -> int:
        compile_file(ARM, source, tmp_path / "out.o", "-DTFLM_ZO_USE_OWN_ABI", f"-I{folder}/src/tflm_zo")
        text = subprocess.run(
            ["arm-none-eabi-objdump", "-d", tmp_path / "out.o"], capture_output=True, text=True, check=True
        ).stdout
        return len(re.findall(r"\tvfn?m[as]\.", text))

    copies = sorted((folder / "src" / "tflm_zo").glob("*.cpp"))
    assert {copy.name: fused(copy) for copy in copies if fused(copy)} == {}
    assert fused(REPOSITORY / "kernels" / "loss.cc") > 0


def arduino_libraries() -> list[Path]:
    return [Path(p) for p in os.environ.get("TFLM_ZO_ARDUINO_LIBS", "").split(os.pathsep) if p]


def include_options(library: Path, extra: Path) -> list[str]:
    root = library / "src" if (library / "src" / "tensorflow").is_dir() else library
    if not (root / "tensorflow").is_dir():
        pytest.fail(f"TFLM_ZO_ARDUINO_LIBS: {library} holds neither src/tensorflow nor tensorflow")
    folders = [root, *(root / "third_party" / p for p in ("flatbuffers/include", "gemmlowp", "ruy", "kissfft"))]
    options = [word for folder in folders for word in ("-isystem", str(folder))]
    if root is library:
        # A tree has no header of a library to include; in its own build this is defined.
        (extra / "TensorFlowLite.h").write_text("")
        options += ["-isystem", str(extra), "-DTF_LITE_STATIC_MEMORY", "-std=gnu++17"]
    return [*options, *DEFINITIONS, "-isystem", str(ARDUINO_CORE)]


def library_name(library: Path) -> str:
    headers = {"Chirale_TensorFlowLite.h": "chirale", "TensorFlowLite.h": "arduino-examples"}
    return next((name for header, name in headers.items() if (library / "src" / header).exists()), "tree")


@pytest.mark.skipif(not arduino_libraries(), reason="TFLM_ZO_ARDUINO_LIBS names no TFLM library for Arduino")
@pytest.mark.parametrize("example", example_names())
@pytest.mark.parametrize("compiler", compilers(), ids=lambda c: c[0])
@pytest.mark.parametrize("library", arduino_libraries(), ids=lambda p: p.name)
def test_sketch_compiles_against(
    library: Path, compiler: list[str], example: str, shared_data: Path, tmp_path: Path
) -> None:
    if example == "SensorLearner":
        model = patch(small_models.dense_model(features=3 * 40), "head")
    else:
        model = patch((shared_data / "mlperf_tiny/kws_ref_model.tflite").read_bytes(), "all", adapter=True)
    folder = tmp_path / "Keywords"
    export_sketch(model, folder, tflm_library=library_name(library), example=example)
    options = include_options(library, tmp_path)
    for source in [*(folder / "src" / "tflm_zo").glob("*.cpp"), *folder.glob("*.cpp")]:
        compile_file(compiler, source, tmp_path / "out.o", *options)
    # Arduino puts this line in front of a sketch.
    program = folder / "sketch.ino.cpp"
    program.write_text("#include <Arduino.h>\n" + (folder / "Keywords.ino").read_text())
    compile_file(compiler, program, tmp_path / "out.o", *options)


@pytest.mark.skipif(not os.environ.get("TFLM_ROOT"), reason="TFLM_ROOT is not set")
def test_every_builtin_op_of_the_resolver_has_its_method() -> None:
    path = Path(os.environ["TFLM_ROOT"]) / "include/tensorflow/lite/micro/micro_mutable_op_resolver.h"
    bodies = re.findall(r"TfLiteStatus (Add\w+)\([^{]*\{(.*?)\n  \}", path.read_text(), re.DOTALL)
    found = {code[1]: method for method, body in bodies if (code := re.search(r"\(\s*BuiltinOperator_(\w+)", body))}
    assert len(found) > 90
    assert {name: add_method(name) for name in found} == found


# -- errors ------------------------------------------------------------------------------------------------


def test_plain_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ZoError, match="tflm-zo patch"):
        export_sketch(small_models.small_model(), tmp_path / "Sketch")


@pytest.mark.parametrize("name", ["my sketch", "-x", "ö", "a" * 64])
def test_name_that_is_none_for_a_sketch(patched: bytes, tmp_path: Path, name: str) -> None:
    with pytest.raises(ZoError, match="cannot be the name of a sketch"):
        export_sketch(patched, tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tflm_library": "x"}, "choose one of chirale"),
        ({"board": "x"}, "choose one of nano33ble"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"example": "x"}, "choose one of .*Train"),
    ],
)
def test_unknown_choices(patched: bytes, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ZoError, match=message):
        export_sketch(patched, tmp_path / "Sketch", **options)


def test_op_that_old_libraries_lack(patched: bytes) -> None:
    tree = load_model(patched)
    softmax = next(c for c in tree.operatorCodes if c.builtinCode == schema.BuiltinOperator.SOFTMAX)
    softmax.builtinCode = softmax.deprecatedBuiltinCode = schema.BuiltinOperator.BATCH_MATMUL
    assert "AddBatchMatMul" in model_ops(tree).builtin
    with pytest.raises(ZoError, match=r"BATCH_MATMUL.*--tflm-library tree"):
        model_ops(tree, recent=False)
    softmax.builtinCode = softmax.deprecatedBuiltinCode = schema.BuiltinOperator.LSTM
    with pytest.raises(ZoError, match="LSTM, which TFLM lacks"):
        model_ops(tree)


def test_foreign_custom_op(patched: bytes) -> None:
    tree = load_model(patched)
    code = next(c for c in tree.operatorCodes if c.customCode in (NODE_OP, NODE_OP.encode()))
    code.customCode = "SOMETHING_ELSE"
    with pytest.raises(ZoError, match="SOMETHING_ELSE"):
        model_ops(load_model(save_model(tree)))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    large = patch(small_models.dense_model(features=4096, outputs=100), "head")
    with pytest.raises(ZoError, match=r"RAM \d+ of 262144 bytes, flash \d+ of 1048576.*too large.*--force"):
        export_sketch(large, tmp_path / "Sketch")
    assert not (tmp_path / "Sketch").exists()
    (tmp_path / "m.tflite").write_bytes(large)
    arguments = ["arduino", str(tmp_path / "m.tflite"), "-o", str(tmp_path / "Sketch")]
    assert CliRunner().invoke(export_command, arguments).exit_code == 1
    assert CliRunner().invoke(export_command, [*arguments, "--force"]).exit_code == 0
    assert (tmp_path / "Sketch/model.cpp").is_file()


def test_replaced_layers_are_said(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(patch(small_models.small_model(), "all"))
    arguments = ["arduino", str(tmp_path / "m.tflite"), "-o", str(tmp_path / "Sketch")]
    result = CliRunner().invoke(export_command, arguments)
    assert result.exit_code == 0, result.output
    assert "computed by other layers, to the same codes" in result.output
    assert "AddFullyConnected" not in (tmp_path / "Sketch/model_ops.h").read_text()


def test_sources_missing_from_an_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "a" / "b" / "sources.py"))
    with pytest.raises(ZoError, match="install the package again"):
        sources.device_folder("kernels")


# -- arduino-cli -------------------------------------------------------------------------------------------


def test_commands_say_where_to_get_arduino_cli(sketch: tuple[Path, Export], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ZoError, match=r"not installed: get it from https://arduino\.github\.io"):
        arduino_cli.build(sketch[0])
    with pytest.raises(ZoError, match="not installed"):
        arduino_cli.flash(sketch[0])


@pytest.fixture
def fake_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An arduino-cli that notes its arguments, answers `board list` from a file, and fails if told to."""
    program = tmp_path / "bin" / "arduino-cli"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f'[ "$1" = board ] && cat {tmp_path}/ports\n[ ! -e {tmp_path}/fail ]\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "ports").write_text('{"detected_ports": []}')
    return tmp_path


def test_build_and_flash_call_arduino_cli(sketch: tuple[Path, Export], fake_cli: Path) -> None:
    folder = sketch[0]
    arduino_cli.build(folder)
    arduino_cli.flash(folder, port="/dev/ttyACM7")
    fqbn = "arduino:mbed_nano:nano33ble"
    assert (fake_cli / "calls").read_text().splitlines() == [
        f"compile --fqbn {fqbn} --build-property upload.maximum_size=917504 {folder}",
        f"compile --upload --fqbn {fqbn} --build-property upload.maximum_size=917504 --port /dev/ttyACM7 {folder}",
    ]
    (fake_cli / "fail").touch()
    with pytest.raises(ZoError, match=r"compile .* failed"):
        arduino_cli.build(folder)


def test_flash_finds_the_only_board(sketch: tuple[Path, Export], fake_cli: Path) -> None:
    with pytest.raises(ZoError, match="found no board"):
        arduino_cli.flash(sketch[0])
    entry = '{"port": {"address": "%s"}, "matching_boards": [{"fqbn": "arduino:mbed_nano:nano33ble"}]}'
    other = '{"port": {"address": "/dev/ttyUSB0"}}'
    (fake_cli / "ports").write_text(f'{{"detected_ports": [{other}, {entry % "/dev/ttyACM1"}]}}')
    assert arduino_cli.flash(sketch[0]) == "/dev/ttyACM1"
    (fake_cli / "ports").write_text(f"[{entry % '/dev/ttyACM1'}, {entry % '/dev/ttyACM2'}]")
    with pytest.raises(ZoError, match="2 boards"):
        arduino_cli.flash(sketch[0])


def test_folder_without_sketch(tmp_path: Path) -> None:
    with pytest.raises(ZoError, match="export arduino"):
        arduino_cli.build(tmp_path)


def test_command_line(patched: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(patched)
    arguments = ["arduino", str(tmp_path / "m.tflite"), "-o", str(tmp_path / "Sketch"), "--json"]
    result = CliRunner().invoke(export_command, arguments)
    assert result.exit_code == 0, result.output
    assert '"arena_bytes"' in result.output.splitlines()[-1]
    assert (tmp_path / "Sketch" / "Sketch.ino").is_file()
    result = CliRunner().invoke(export_command, ["arduino-library", "-o", str(tmp_path / "Lib")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "Lib" / "library.properties").is_file()
