# SPDX-License-Identifier: Apache-2.0
"""Models as arrays in C source: read in the forms that people publish, and written as a compiler takes them."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import small_models
from click.testing import CliRunner

from tflm_zo import Trainer, ZoError, patch
from tflm_zo.cli.main import main
from tflm_zo.model.c_array import MOST_MODEL_BYTES, read_c_array, write_c_array
from tflm_zo.model.storage import read_model, write_model

MODEL = small_models.small_model("softmax")
OTHER = small_models.small_model("linear") if small_models.small_model("linear") != MODEL else b""
STRANGERS = Path(__file__).parents[2] / "shared" / "data" / "strangers"
HEX = ", ".join(f"0x{byte:02x}" for byte in MODEL)
OTHER_HEX = ", ".join(f"0x{byte:02X}" for byte in OTHER)
DECIMAL = ",\n".join(str(byte) for byte in MODEL)


def words(data: bytes, dtype: str) -> str:
    padded = data + bytes(-len(data) % 4)
    return ",".join(hex(word) for word in np.frombuffer(padded, dtype))


def string(data: bytes) -> str:
    lines = ("".join(f"\\x{byte:02x}" for byte in data[i : i + 16]) for i in range(0, len(data), 16))
    return "\n".join(f'  "{line}"' for line in lines)


FORMS = {
    "xxd": f"unsigned char model_tflite[] = {{\n  {HEX}\n}};\nunsigned int model_tflite_len = {len(MODEL)};\n",
    "xxd of standard input": f"  {HEX}\n",
    "TFLM": f'#include "model.h"\n\nalignas(16) const uint8_t g_model[] = {{{HEX},}};\nconst int g_model_len = 1;',
    "a macro before": f"const unsigned char g_model[] DATA_ALIGN_ATTRIBUTE = {{{HEX}}};",
    "a macro's definition": (
        "#ifdef __has_attribute\n#define HAVE_ATTRIBUTE(x) __has_attribute(x)\n#else\n#define HAVE_ATTRIBUTE(x) 0\n"
        "#endif\n#if HAVE_ATTRIBUTE(aligned) || \\\n (defined(__GNUC__))\n#define ALIGN __attribute__((aligned(4)))\n"
        f"#else\n#define ALIGN\n#endif\nconst unsigned char g_model[] ALIGN = {{{HEX}}};"
    ),
    "attributes": (
        '__attribute__((section(".tflite_model"), aligned(16)))\n'
        f'const uint8_t model[{len(MODEL)}] __attribute__((section("x"))) = {{{HEX}}};'
    ),
    "PROGMEM": f"const unsigned char model[] PROGMEM= {{{HEX}}};",
    "decimal": f"const uint8_t g_model[] =\n{{\n{DECIMAL}\n}};",
    "signed": f"const signed char m[] = {{{','.join(str(v) for v in np.frombuffer(MODEL, np.int8))}}};",
    "octal and suffixes": f"unsigned char m[]={{{','.join(f'0{byte:o}u' for byte in MODEL)}}};",
    "binary and casts": f"char m[]={{{','.join(f'(char)0b{byte:b}' for byte in MODEL)}}};",
    "comments": (
        "/* const unsigned char old[] = {0x1c, 0x00}; */ // const char x[] = {\n"
        f"const unsigned char g_model[] = {{ /* {{ */ {HEX.replace(', 0x54', ', // it is }' + chr(10) + ' 0x54')} }};"
    ),
    "characters": "const char m[] = {" + HEX.replace("0x54, 0x46", "'T', 'F'") + "};",
    "a string": f"const unsigned char g_model[] =\n{string(MODEL)};\n",
    "a string without its zero": f"const char g_model[{len(MODEL)}] = {string(MODEL)};\n",
    "std::array": f"constexpr std::array<uint8_t, {len(MODEL)}> g_model = {{{{{HEX}}}}};",
    "uniform initialization": f"alignas(8) unsigned char const g_model[]{{{HEX}}};",
    "words": f"const uint32_t g_model[] = {{{words(MODEL, '<u4')}}};",
    "half words": f"static const unsigned short g_model[] = {{{words(MODEL, '<u2')}}};",
    "if 0": (
        f"#if 0 // old\n#if X\n#endif\nconst char a[] = {{{OTHER_HEX}}};\n#else\nconst char a[] = {{{HEX}}};\n"
        f"#endif\n#if 1\nint x;\n#endif\n"
    ),
    "a sketch": (
        '#include <Arduino.h>\nconst char* labels[] = {"a;b", "c}"};\nnamespace {\nconst int sizes[2] = {1, 2};\n'
        f"const unsigned char model[] = {{{HEX}}};\n}}\nint main(int argc, char* argv[]) {{ int a[] = {{1}}; }}\n"
        "void loop() { char c = '{'; for (int i = 0; i < sizes[0]; i++) { if (sizes[i]) { c = '\"'; } } }\n"
    ),
    "the same twice": f"#ifdef A\nchar m[] = {{{HEX}}};\n#else\nalignas(4) char m[] = {{{HEX}}};\n#endif",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_are_read(form: str) -> None:
    for newline in ("\n", "\r\n"):
        text = FORMS[form].replace("\n", newline)
        found = read_c_array(text.encode())
        assert found[: len(MODEL)] == MODEL and not any(found[len(MODEL) :])
    assert read_c_array(b"\xef\xbb\xbf" + FORMS[form].encode())[: len(MODEL)] == MODEL
    assert read_c_array(b"\xff\xfe" + FORMS[form].encode("utf-16-le"))[: len(MODEL)] == MODEL


TWO = f"const char first[] = {{{HEX}}};\nconst char second[] = {{{OTHER_HEX}}};\nconst char no[] = {{1, 2}};"
REFUSED = {
    "several": (
        TWO,
        rf"2 models: first \({len(MODEL)} bytes\), second \({len(OTHER)} bytes\): choose one by FILE:NAME",
    ),
    "alternatives": (f"#if A\nchar m[]={{{HEX}}};\n#else\nchar m[]={{{OTHER_HEX}}};\n#endif", "several arrays m"),
    "no model": ("char text[] = {1, 2, 3};", r"array text \(3 bytes\) is no TFLite model"),
    "a declaration": ("extern const unsigned char g_model[];", "declares g_model only"),
    "nothing": ("int main() { return 0; }", "no array"),
    "empty": ("", "no array"),
    "cut off": (f"\n\nconst char m[] = {{{HEX[:2000]}", r"array m \(line 3\) has no end: the file is cut off"),
    "lost numbers": (f"char m[{len(MODEL)}] = {{{HEX[6:]}}};", rf"with {len(MODEL)} values and has {len(MODEL) - 1}"),
    "no byte": (f"char m[] = {{{HEX}, 256}};", "holds 256, which is no byte"),
    "no number": (f"char m[] = {{{HEX}, 0xZZ}};", "holds '0xZZ', which is no number"),
    "no character": (f'char m[] = {string(MODEL)} "\\xffffffffffffffffffff";', "which is no byte"),
    "a gap": (f"char m[] = {{{HEX},, 1}};", "holds '', which is no number"),
    "huge number": (f"char m[] = {{{HEX}, {'9' * 5000}}};", "which is no number"),
    "octal 8": (f"char m[] = {{{HEX}, 08}};", "holds '08', which is no number"),
    "included": ('char m[] = {\n#include "bytes.inc"\n};', r"array m \(line 1\) takes its values from another file"),
    "binary": (bytes(range(256)).decode("latin-1") * 50, "no array"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_refused_is_refused_in_one_line(form: str) -> None:
    text, message = REFUSED[form]
    with pytest.raises(ZoError, match=message) as caught:
        read_c_array(text.encode("latin-1"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_an_array_is_chosen_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "models.cc"
    path.write_text(TWO)
    assert read_model(f"{path}:first") == MODEL and read_model(f"{path}:second") == OTHER
    with pytest.raises(ZoError, match=r"models.cc: no array third: it has first, no, second"):
        read_model(f"{path}:third")
    with pytest.raises(ZoError, match=r"models.cc: 2 models"):
        read_model(path)


def test_the_file_that_holds_what_a_header_declares_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.h").write_text("extern const unsigned char g_m[];\nextern const int g_m_len;\n")
    (tmp_path / "m.cpp").write_text(FORMS["xxd"])
    with pytest.raises(ZoError, match=r"m\.h: it declares g_m only.*m\.cpp\?"):
        read_model(tmp_path / "m.h")


HOSTILE = {
    "comments": "/*" * 500_000,
    "strings": "\"a'" * 500_000,
    "arrays": "a[]={" * 300_000,
    "names": "a[]" * 500_000,
    "words": "a" * 1_000_000,
    "spaces": "a[]" + " " * 1_000_000,
    "closed arrays": "a[]={}" * 200_000,
    "templates": "array<" * 300_000 + "{",
    "conditions": "#if 0\n" * 200_000,
    "commas": "char a[]={" + "," * 1_000_000 + "};",
    "numbers": "char a[]={" + "0x" * 500_000 + "};",
    "text": 'char a[]="' + "\\" * 1_000_000,
}


@pytest.mark.parametrize("form", HOSTILE)
def test_time_grows_with_length_only(form: str) -> None:
    start = time.process_time()
    with pytest.raises(ZoError):
        read_c_array(HOSTILE[form].encode())
    assert time.process_time() - start < 20


def test_large_files(tmp_path: Path) -> None:
    with pytest.raises(ZoError, match="too large for a C array"):
        write_model(tmp_path / "m.h", bytes(MOST_MODEL_BYTES + 1))
    assert list(tmp_path.iterdir()) == []
    with (tmp_path / "m.h").open("wb") as stream:
        stream.truncate((64 << 20) + 1)
    with pytest.raises(ZoError, match="at most 64 MB of source"):
        read_model(tmp_path / "m.h")
    big = MODEL + bytes(1 << 20)
    start = time.process_time()
    assert read_c_array(write_c_array(big, "m.h")) == big
    assert time.process_time() - start < 10


@pytest.mark.parametrize("name", ["model.h", "my model-2.cc", "9.cpp", "Ünï.HPP", "m.c", ".h", "a.b.ino"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    write_model(tmp_path / name, MODEL)
    assert (tmp_path / name).read_bytes().isascii()
    assert read_model(tmp_path / name) == MODEL
    write_model(f"{tmp_path / name}:chosen", MODEL)
    assert read_model(f"{tmp_path / name}:chosen") == MODEL


@pytest.mark.skipif(not STRANGERS.exists(), reason="the shared models of strangers are not here")
def test_round_trip_of_models_of_strangers(tmp_path: Path) -> None:
    for path in STRANGERS.glob("*.tflite"):
        write_model(tmp_path / f"{path.stem}.h", path.read_bytes())
        assert read_model(tmp_path / f"{path.stem}.h") == path.read_bytes(), path


def test_other_names_are_binary(tmp_path: Path) -> None:
    for name in ("model.tflite", "model", "model.bin"):
        write_model(tmp_path / name, MODEL)
        assert (tmp_path / name).read_bytes() == read_model(tmp_path / name) == MODEL
    # As `bake -o model.h` once wrote it.
    (tmp_path / "old.h").write_bytes(MODEL)
    assert read_model(tmp_path / "old.h") == MODEL


PROGRAM = """
#include <stdio.h>
#include <stdint.h>
%s
int main(void) {
  if ((uintptr_t)g_my_model %% 16 != 0) return 1;
  fwrite(g_my_model, 1, (size_t)g_my_model_len, stdout);
  return 0;
}
"""
DECLARED = "extern const unsigned char g_my_model[];\nextern const int g_my_model_len;\n"
COMPILERS = {".c": ["gcc", "-std=c11"], ".cpp": ["g++", "-std=c++17"]}


@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("gcc") is None, reason="no compiler")
@pytest.mark.parametrize("language", COMPILERS)
def test_a_compiler_takes_it(tmp_path: Path, language: str) -> None:
    flags = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
    write_model(tmp_path / "my_model.h", MODEL)
    write_model(tmp_path / f"my_model{language}", MODEL)
    # A header may be included twice, and in two files; a source file is linked with.
    (tmp_path / f"header{language}").write_text(PROGRAM % ('#include "my_model.h"\n' * 2))
    (tmp_path / f"second{language}").write_text(
        '#include "my_model.h"\nint second(void);\nint second(void) { return g_my_model[0]; }\n'
    )
    (tmp_path / f"source{language}").write_text(PROGRAM % DECLARED)
    for files in (["header", "second"], ["source", "my_model"]):
        command = [*COMPILERS[language], *flags, *[f"{file}{language}" for file in files], "-o", "program"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        done_program = subprocess.run([tmp_path / "program"], capture_output=True, check=True)
        assert done_program.stdout == MODEL


def test_commands_take_and_write_source(tmp_path: Path) -> None:
    """The whole way without a .tflite file."""
    x, y = small_models.separable_samples(40, 1)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    (tmp_path / "model.cc").write_text(FORMS["TFLM"])

    def command(*words: str) -> str:
        done = CliRunner().invoke(main, [w.replace("@", f"{tmp_path}/") for w in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    command("inspect", "@model.cc")
    command("eval", "@model.cc", "--data", "@data.npz")
    command("patch", "@model.cc", "--trainable", "head", "-o", "@patched.h")
    assert read_model(tmp_path / "patched.h") == patch(MODEL, "head")
    command("train", "@patched.h", "--data", "@data.npz", "--epochs", "2", "--quiet", "-o", "@run.ckpt")
    command("plan", "@patched.h")
    command("bake", "@patched.h", "--checkpoint", "@run.ckpt", "-o", "@baked.cpp:g_baked")
    assert b"g_baked_len" in (tmp_path / "baked.cpp").read_bytes()
    trainer = Trainer(tmp_path / "patched.h")
    trainer.load(tmp_path / "run.ckpt")
    assert trainer.bake() == read_model(tmp_path / "baked.cpp")
    command("realign", "@model.cc", "--reference", "@data.npz", "--data", "@data.npz", "-o", "@realigned.h")
    command("adapt", "@baked.cpp", "--data", "@data.npz", "--epochs", "1", "--quiet", "-o", "@adapted.h")
    for name in ("realigned.h", "adapted.h"):
        assert (tmp_path / name).read_bytes().isascii() and read_model(tmp_path / name)[4:8] == b"TFL3"
    (tmp_path / "none.h").write_text("extern const unsigned char g_model[];")
    failed = CliRunner().invoke(main, ["inspect", str(tmp_path / "none.h")])
    assert (
        failed.exit_code == 1 and failed.output.count("\n") == 1 and "none.h: it declares g_model only" in failed.output
    )
