# SPDX-License-Identifier: Apache-2.0
"""What C++ and Python agree on: Python's side is what the generator makes of the headers, and a compiler agrees."""

import ctypes
import enum
import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tflm_zo.ops.native import U8, U32, Structure

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY / "tools"))

from cpp_declarations import Constant, Declaration, Enum, Function, Struct, read_header  # noqa: E402
from generate_layouts import MODULES, Module, generate, python_name  # noqa: E402


@pytest.mark.parametrize("path", [module.path for module in MODULES])
def test_generated_modules_are_up_to_date(path: str) -> None:
    assert (REPOSITORY / path).read_text() == generate()[path], "run tools/generate_layouts.py"


# -- the compiler's word -----------------------------------------------------------------------------------

UNDERLYING = {"int": 4, "int32_t": 4, "uint32_t": 4, "uint16_t": 2, "uint8_t": 1}  # bytes of enums

# Prints what the compiler makes of each declaration, a line each.
PROLOGUE = """
#include <cstddef>
#include <cstdio>
#include <type_traits>
using namespace tflm_zo;
using namespace tflm_zo::sim;

void Print(const char* name, long long value) { std::printf("%s=%lld\\n", name, value); }
void PrintText(const char* name, const char* value) { std::printf("%s=%s\\n", name, value); }

// Of a function's result and arguments: size, and whether it is an address or a real number.
template <typename T>
void PrintType() {
  std::printf(" %zu%s", sizeof(T),
              std::is_pointer<T>::value ? "p" : std::is_floating_point<T>::value ? "f" : "i");
}
template <>
void PrintType<void>() { std::printf(" v"); }
template <typename F>
struct Describe;
template <typename R, typename... A>
struct Describe<R(A...)> {
  static void Print(const char* name) {
    std::printf("%s=", name);
    PrintType<R>();
    const int each[] = {0, (PrintType<A>(), 0)...};
    (void)each;
    std::printf("\\n");
  }
};

int main() {
"""


def declarations(module: Module) -> Iterator[Declaration]:
    """What the module takes over from its headers."""
    for header in module.headers:
        for declaration in read_header((REPOSITORY / header.path).read_text()):
            if declaration.name in header.names or (isinstance(declaration, Function) and "*" in header.names):
                yield declaration


def cpp_lines(declaration: Declaration) -> Iterator[str]:
    name = declaration.name
    if isinstance(declaration, Constant):
        text = declaration.value[0].startswith('"')
        yield f'{"PrintText" if text else "Print"}("{name}", {name});'
    elif isinstance(declaration, Enum):
        for value, _ in declaration.values:
            yield f'Print("{name}.{value}", static_cast<long long>({name}::{value}));'
        yield f'Print("{name}", sizeof({name}));'
    elif isinstance(declaration, Struct):
        yield f'Print("{name}", sizeof({name}));'
        for field in declaration.fields:
            yield f'Print("{name}.{field.name}", offsetof({name}, {field.name}));'
            yield f'Print("{name}.{field.name}", sizeof({name}::{field.name}));'
    elif isinstance(declaration, Function):
        yield f'Describe<decltype({name})>::Print("{name}");'


def python_lines(declaration: Declaration, module: Any) -> Iterator[str]:
    name = declaration.name
    if isinstance(declaration, Function):
        result, arguments = module.PROTOTYPES[name]
        yield f"{name}= " + " ".join(map(kind, [result, *arguments]))
        return
    value = getattr(module, python_name(name), None)
    if isinstance(declaration, Constant):
        yield f"{name}={value}"
    elif isinstance(declaration, Enum):
        assert isinstance(value, enum.EnumMeta)
        for (enumerator, _), member in zip(declaration.values, list[Any](value), strict=True):
            assert python_name(enumerator).endswith(member.name)
            yield f"{name}.{enumerator}={int(member)}"
        yield f"{name}={UNDERLYING[declaration.type]}"
    elif isinstance(declaration, Struct):
        assert isinstance(value, type) and issubclass(value, Structure)
        yield f"{name}={ctypes.sizeof(value)}"
        for field in declaration.fields:
            place = getattr(value, field.name)
            yield f"{name}.{field.name}={place.offset}"
            yield f"{name}.{field.name}={place.size}"


def kind(type_: Any) -> str:
    """As PrintType above."""
    if type_ is None:
        return "v"
    if type_ in (ctypes.c_void_p, ctypes.c_char_p) or issubclass(type_, ctypes._Pointer):
        return f"{ctypes.sizeof(type_)}p"
    return f"{ctypes.sizeof(type_)}{'f' if type_ in (ctypes.c_float, ctypes.c_double) else 'i'}"


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
def test_a_compiler_lays_out_the_same(tmp_path: Path) -> None:
    includes = [f'#include "{REPOSITORY / header.path}"' for module in MODULES for header in module.headers]
    lines = [line for module in MODULES for d in declarations(module) for line in cpp_lines(d)]
    source = tmp_path / "layouts.cc"
    source.write_text("\n".join([*includes, PROLOGUE, *lines, "}"]))
    folders = ("kernels", "kernels/sim", "micro_app/src/app", "tests/arduino_core")
    command = ["g++", "-std=c++17", "-DTFLM_ZO_USE_OWN_ABI", "-DARDUINO_ARDUINO_NANO33BLE", "-Wno-invalid-offsetof"]
    command += [f"-I{REPOSITORY / folder}" for folder in folders]
    program = tmp_path / "layouts"
    subprocess.run([*command, source, "-o", program], check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    expected = []
    for module in MODULES:
        name = module.path.removesuffix(".py").removeprefix("tests/").replace("/", ".")
        loaded = importlib.import_module(name)
        expected += [line for d in declarations(module) for line in python_lines(d, loaded)]
    assert len(expected) > 600
    assert printed == expected


# -- the parser --------------------------------------------------------------------------------------------


def test_what_is_not_a_declaration_is_passed_over() -> None:
    found = read_header(
        """
        // struct InAComment { int32_t field; };
        template <typename T> struct Skipped { T value; };
        class AlsoSkipped final : public Base { int32_t field_ = 3; void F() { if (a) { b(); } } };
        constexpr int32_t Twice(int32_t x) { return 2 * x; }
        inline int32_t Next(int32_t x) { return x + 1; }
        using Name = Other;
        namespace { constexpr int kLast = (1 + 2) * 3; }
        """
    )
    assert found == [Constant("kLast", ("(", "1", "+", "2", ")", "*", "3"))]


def test_fields_are_read_with_their_types() -> None:
    (struct,) = read_header(
        """
        struct Mixed {
          const int8_t* bytes;  // read
          float* const values = nullptr;
          int32_t first, second[kCount];
          float Mean() const { return 0.0f; }
          tflm_zo::Other other;
        };
        """
    )
    assert isinstance(struct, Struct) and not struct.packed
    assert [tuple(field) for field in struct.fields] == [
        ("bytes", "int8_t*", True, ()),
        ("values", "float*", False, ()),
        ("first", "int32_t", False, ()),
        ("second", "int32_t", False, ("kCount",)),
        ("other", "Other", False, ()),
    ]


def test_a_function_with_a_body_is_refused() -> None:
    with pytest.raises(SyntaxError, match="tflm_zo_f has a body"):
        read_header("TFLM_ZO_EXPORT int tflm_zo_f(int x) { return x; }")


# -- structures in Python ----------------------------------------------------------------------------------


class Pair(Structure):
    """Not of C++."""

    small: U8
    large: U32


def test_structures_are_values() -> None:
    pair = Pair(1, large=2)
    assert list(pair) == [1, 2] and repr(pair) == "Pair(small=1, large=2)"
    assert pair == Pair.from_buffer_copy(bytes(pair)) and hash(pair) == hash(Pair(1, 2))
    assert pair != Pair(1, 3) and pair != (1, 2)


@pytest.mark.parametrize("value", [-1, 256])
def test_a_number_that_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(OverflowError, match=f"Pair.small cannot hold {value}"):
        Pair(small=value)


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(TypeError, match="Pair has no field lage"):
        Pair(lage=2)
    with pytest.raises(TypeError, match="Pair has 2 fields, not 3"):
        Pair(1, 2, 3)
