# SPDX-License-Identifier: Apache-2.0
"""Models as arrays in C source: how makers keep a model in a sketch (``model.h``, ``model_data.cc``, ``xxd -i``)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import FILE_IDENTIFIER

HEADERS = (".h", ".hh", ".hpp", ".hxx", ".inc")
SOURCES = (".c", ".cc", ".cpp", ".cxx", ".ino")

# No microcontroller has flash for such a model. A byte of it takes some six characters of source.
MOST_MODEL_BYTES = 10 << 20
MOST_SOURCE_BYTES = 64 << 20
_CHUNK = 1 << 20
_HEAD = 2000
_PER_LINE = 12

_LITERAL = r'"(?:\\.|[^"\\\n])*"?|' + r"'(?:\\.|[^'\\\n])*'?"
# What is not closed goes on to the end, so that the search never starts again from within it.
_COMMENT = re.compile(_LITERAL + r"|/\*.*?(?:\*/|\Z)|//[^\n]*", re.DOTALL)
_DIRECTIVE = re.compile(r"^[ \t]*#[ \t]*(\w*)((?:\\\n|[^\n])*)", re.MULTILINE)
_MARK = re.compile(_LITERAL + r"|[{};]")
_WORD = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"(?:\(\s*\w+\s*\)\s*)?([+-]?)\s*(?:(0[xX][0-9a-fA-F]+|0[bB][01]+)|([0-9]+))[uUlLzZ]{0,3}")
_CHARACTERS = re.compile(r"\\x([0-9a-fA-F]+)|\\([0-7]{1,3})|\\(.)|([^\\])", re.DOTALL)
_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "0": 0}
_BYTES = {"char", "uint8_t", "int8_t"}
_HALF_WORDS = {"short", "uint16_t", "int16_t"}
_WORDS = {"int", "unsigned", "long", "uint32_t", "int32_t"}
_INCLUDED = '@"included"'


@dataclass(frozen=True)
class _Array:
    """An array that the source defines: ``name``, length in its brackets, bytes of an element, and what is in it."""

    name: str
    length: str
    width: int
    line: int
    body: str
    closed: bool = True

    def content(self) -> bytes:
        """Return the array as memory holds it. Raises :class:`ZoError` if it is not made of numbers."""
        if not self.closed:
            raise ZoError(f"array {self.name} (line {self.line}) has no end: the file is cut off")
        if _INCLUDED in self.body:
            raise ZoError(f"array {self.name} (line {self.line}) takes its values from another file: give that one")
        is_text = self.body.startswith('"')
        values = _text(self.body) if is_text else self._numbers()
        if is_text and self.length == str(len(values) - 1):
            values = values[:-1]  # C leaves out the zero behind a string if there is no room for it
        if self.length.isdecimal() and int(self.length) != len(values):
            raise ZoError(f"array {self.name} is declared with {self.length} values and has {len(values)}: damaged")
        low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
        width = 1 if low >= -128 and high < 256 else self.width
        for value in (low, high):
            if not -(1 << (8 * width - 1)) <= value < 1 << 8 * width:
                raise ZoError(f"array {self.name} holds {value}, which is no byte")
        return values.astype(f"<u{width}").tobytes()

    def _numbers(self) -> np.ndarray:
        known = _Numbers(self.name)
        parts = []
        start = 0
        while start < len(self.body):
            end = self.body.find(",", start + _CHUNK)
            end = len(self.body) if end < 0 else end
            texts = self.body[start:end].split(",")
            if end == len(self.body) and not texts[-1].strip():
                texts.pop()  # a comma may follow the last number
            parts.append(np.array([known[text] for text in texts], dtype=np.int64))
            start = end + 1
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


class _Numbers(dict[str, int]):
    """Values of literals, each read once: a model has few that differ."""

    def __init__(self, array: str) -> None:
        super().__init__()
        self._array = array

    def __missing__(self, text: str) -> int:
        literal = text.strip()
        value = _value(literal) if len(literal) < 80 else None
        if value is None or abs(value) >> 62:
            raise ZoError(f"array {self._array} holds {literal[:40]!r}, which is no number")
        self[text] = value
        return value


def _value(literal: str) -> int | None:
    """Value of a literal, None if it is none."""
    if len(literal) > 2 and literal[0] == literal[-1] == "'":
        characters = _characters(literal[1:-1])
        return characters[0] if len(characters) == 1 else None
    found = _NUMBER.fullmatch(literal)
    if found is None:
        return None
    sign, prefixed, other = found.groups()
    if other and other[0] == "0" and not set(other) <= set("01234567"):
        return None
    value = int(prefixed, 0) if prefixed else int(other, 8 if other[0] == "0" else 10)
    return -value if sign == "-" else value


def is_c_source(name: str) -> bool:
    """Whether a file of this name holds C or C++."""
    return _ending(name) in (*HEADERS, *SOURCES)


def _ending(name: str) -> str:
    return "." + PurePath(name).name.rpartition(".")[2].lower() if "." in PurePath(name).name else ""


def read_c_array(source: bytes, name: str | None = None) -> bytes:
    """Return the TFLite model that C or C++ ``source`` holds as an array.

    Numbers may be decimal, hexadecimal, octal, binary or characters; strings and words of 2 or 4 bytes (little-endian)
    are taken, too. Comments and what ``#if 0`` leaves out do not count; macros are not expanded. ``name`` is that of
    the array, if several hold models.

    Raises :class:`ZoError` if there is no such array, or more than one, or it is damaged.
    """
    if len(source) > MOST_SOURCE_BYTES:
        raise ZoError(f"{len(source) >> 20} MB of C source: a model's array is read from at most 64 MB")
    text = _plain(_decoded(source))
    arrays = [array for array in _arrays(text) if name in (None, array.name)]
    if not arrays:
        raise ZoError(_nothing(text, name))
    models: dict[str, bytes] = {}
    faults = []
    for array in arrays:
        try:
            content = array.content()
        except ZoError as error:
            faults.append(str(error))
            continue
        if content[4:8] == FILE_IDENTIFIER:
            if models.setdefault(array.name, content) != content:
                raise ZoError(f"there are several arrays {array.name} with different models: leave one")
        else:
            faults.append(f"array {array.name} ({len(content)} bytes) is no TFLite model (no TFL3 identifier)")
    if not models:
        # The largest is what was meant to be the model.
        largest = max(range(len(arrays)), key=lambda i: len(arrays[i].body))
        raise ZoError(faults[largest])
    if len(models) > 1:
        found = ", ".join(f"{one} ({len(content)} bytes)" for one, content in models.items())
        raise ZoError(f"{len(models)} models: {found}: choose one by FILE:NAME")
    return next(iter(models.values()))


def write_c_array(data: bytes, file_name: str, name: str | None = None) -> bytes:
    """Return C source with ``data`` as an array, aligned to 16 bytes as TFLM's kernels want it, and its length.

    The array is called ``name``, by default ``g_`` and ``file_name`` without its ending, as in TFLM's examples; the
    length ``..._len``. By the ending of ``file_name`` it is a header, with a guard, or a source file whose names can be
    linked with. Raises :class:`ZoError` for more than 10 MB.
    """
    if len(data) > MOST_MODEL_BYTES:
        raise ZoError(f"{file_name}: a model of {len(data)} bytes is too large for a C array: write a .tflite")
    stem = re.sub(r"[^A-Za-z0-9]+", "_", PurePath(file_name).name.rpartition(".")[0]).strip("_") or "model"
    array = name or f"g_{stem}"
    header = _ending(file_name) in HEADERS
    guard = re.sub(r"[^A-Z0-9]+", "_", PurePath(file_name).name.upper()).strip("_") + "_"
    guard = guard if guard[:1].isalpha() else "MODEL_" + guard
    lines = [f"// TFLite model of {len(data)} bytes, written by tflm-zo.", ""]
    lines += [f"#ifndef {guard}", f"#define {guard}", ""] if header else []
    lines += ["#ifndef __cplusplus", "#include <stdalign.h>", "#endif", ""]
    if not header:  # constants of C++ are seen from other files only if they are declared so
        lines += [f"extern const unsigned char {array}[];", f"extern const int {array}_len;", ""]
    static = "static " if header else ""
    lines.append(f"alignas(16) {static}const unsigned char {array}[{len(data)}] = {{")
    literals = [f"0x{byte:02x}" for byte in range(256)]
    for start in range(0, len(data), _PER_LINE):
        lines.append("    " + ", ".join(literals[byte] for byte in data[start : start + _PER_LINE]) + ",")
    lines += ["};", f"{static}const int {array}_len = {len(data)};"]
    lines += ["", f"#endif  // {guard}"] if header else []
    return ("\n".join(lines) + "\n").encode()


def _decoded(source: bytes) -> str:
    """Text of which only ASCII matters; PowerShell writes UTF-16."""
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if source.startswith(mark):
            return source[2:].decode(encoding, "replace").replace("\r\n", "\n")
    return source.removeprefix(b"\xef\xbb\xbf").decode("latin-1").replace("\r\n", "\n")


def _plain(text: str) -> str:
    """Return source without comments, directives and what ``#if 0`` leaves out, with the same lines."""

    def blank(found: re.Match[str]) -> str:
        return found[0] if found[0][0] in "\"'" else " " + "\n" * found[0].count("\n")

    text = _COMMENT.sub(blank, text)
    kept, position = [], 0
    out: int | None = None  # how deep the conditions are within that which is left out
    for directive in _DIRECTIVE.finditer(text):
        between = text[position : directive.start()]
        kept.append(between if out is None else "\n" * between.count("\n"))
        # What an #include within braces stands for is not here.
        included = directive[1] == "include" and out is None
        kept.append((f" {_INCLUDED} " if included else " ") + "\n" * directive[0].count("\n"))
        position = directive.end()
        word = directive[1]
        if out is None:
            out = 0 if word == "if" and directive[2].strip() in ("0", "false") else None
        elif word in ("if", "ifdef", "ifndef"):
            out += 1
        elif word == "endif" or (word in ("else", "elif") and out == 0):
            out = None if out == 0 else out - 1
    rest = text[position:]
    kept.append(rest if out is None else "\n" * rest.count("\n"))
    return "".join(kept)


def _arrays(text: str) -> Iterator[_Array]:
    """Yield the arrays that source without comments defines."""
    head_start = counted = 0
    line = 1
    found_any = False
    marks = _MARK.finditer(text)
    for mark in marks:
        kind = mark[0][0]
        start = mark.start()
        assigned = text[max(head_start, start - 100) : start].rstrip().endswith("=")
        begins = kind == "{" or (kind == '"' and assigned)
        declared = _declared(text[max(head_start, start - _HEAD) : start]) if begins else None
        if declared is None:
            if kind in "{};":
                head_start = mark.end()
            continue
        found_any = True
        line += text.count("\n", counted, start)
        counted = start
        end, closed, depth = len(text), False, 1
        for inner in marks:
            depth += {"{": 1, "}": -1}.get(inner[0], 0)
            if (kind == "{" and depth == 0) or (kind == '"' and inner[0] == ";"):
                end, closed = inner.start(), True
                break
        head_start = end
        body = text[start:end] if kind == '"' else text[mark.end() : end].translate({123: " ", 125: " "})
        yield _Array(*declared, line, body.strip(), closed)
    # `xxd -i` of its standard input writes the numbers alone.
    if not found_any and re.match(r"\s*0[xX][0-9a-fA-F]{1,2}\s*,", text):
        yield _Array("of the file", "", 1, 1, text)


def _declared(head: str) -> tuple[str, str, int] | None:
    """Name, length and bytes of an element, if what stands before a ``{`` or ``"`` declares an array."""
    assigned = head.rstrip().endswith("=")
    before = head.rstrip().removesuffix("=").rstrip()
    template = re.fullmatch(r"array\s*<([^<>;]*),\s*(\w+)\s*>\s*(\w+)", before[max(before.rfind("array"), 0) :][:300])
    if template:
        return template[3], template[2], _width(template[1])
    end = before.rfind("]")
    start = before.rfind("[", 0, end)
    if start < 0 or "=" in before[end:] or (not assigned and ")" in before[end:]):
        return None  # as in `int main(int argc, char* argv[]) {`
    name = re.search(r"([A-Za-z_]\w*)\s*$", before[:start][-300:])
    if name is None:
        return None
    return name[1], before[start + 1 : end].strip(), _width(before[: name.start() + max(start - 300, 0)])


def _width(declaration: str) -> int:
    words = set(_WORD.findall(declaration))
    return 1 if words & _BYTES else 2 if words & _HALF_WORDS else 4 if words & _WORDS else 1


def _text(body: str) -> np.ndarray:
    """Bytes of string literals that follow each other, with the zero that C puts behind them."""
    parts = re.findall(r'"((?:\\.|[^"\\])*)"', body, re.DOTALL)
    return np.array([value for part in parts for value in _characters(part)] + [0], dtype=np.int64)


def _characters(text: str) -> list[int]:
    values = []
    for hexadecimal, octal, escape, plain in _CHARACTERS.findall(text):
        if hexadecimal:
            values.append(int(hexadecimal.lstrip("0")[:8] or "0", 16))  # so much is no byte, whatever follows
        elif octal:
            values.append(int(octal, 8))
        elif escape:
            values.append(_ESCAPES.get(escape, ord(escape)))
        else:
            values.append(ord(plain))
    return values


def _nothing(text: str, name: str | None) -> str:
    """Why source has no array (called ``name``)."""
    if name is not None:
        others = sorted({array.name for array in _arrays(text)})
        return f"no array {name}" + (f": it has {', '.join(others[:8])}" if others else "")
    declared = re.search(r"(?<!\w)([A-Za-z_]\w{0,200})\s?\[[^\[\]{};=]{0,200}\]\s?;", text)
    if declared:
        return f"it declares {declared[1]} only: give the source file that holds its values"
    return "no array: give the file that holds the model's bytes, or the .tflite itself"
