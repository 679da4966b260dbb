# SPDX-License-Identifier: Apache-2.0
"""Reads declarations from C++ headers, as far as Python has to agree with them.

It understands this much of C++, outside of classes and templates:

* ``constexpr`` numbers and strings, computed from numbers, other constants, ``sizeof`` and operators;
* ``enum`` and ``enum class``, with values or counting on;
* structs of numbers, enums, other structs, pointers, callbacks, and arrays of them; methods in them are passed over;
* ``#pragma pack(push, 1)`` and ``#pragma pack(pop)`` around structs;
* ``typedef struct Name Name;`` and ``typedef int32_t (*Name)(int32_t name);``;
* functions behind a macro whose name ends in ``_EXPORT``.

Everything else is passed over, so a declaration that is not understood is one that is missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

_TOKEN = re.compile(r'"[^"]*"|[A-Za-z_]\w*|0[xX][0-9A-Fa-f]+\w*|\d[\w.]*|::|<<|>>|\S')
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_PACK = {"#pragma pack(push, 1)": "__pack__", "#pragma pack(pop)": "__unpack__"}
_CLOSING = {"(": ")", "{": "}", "[": "]"}


class Variable(NamedTuple):
    """A field or an argument: its type without ``const`` ("int8_t*"), whether that is ``const``, its array's size."""

    name: str
    type: str
    is_const: bool
    size: tuple[str, ...]


class Constant(NamedTuple):
    """A constant: the tokens of its value."""

    name: str
    value: tuple[str, ...]


class Enum(NamedTuple):
    """An enum: its underlying type, and the enumerators with the tokens of their values (none: one more)."""

    name: str
    type: str
    values: tuple[tuple[str, tuple[str, ...]], ...]


class Struct(NamedTuple):
    """A struct; ``packed``: without padding."""

    name: str
    fields: tuple[Variable, ...]
    packed: bool


class Callback(NamedTuple):
    """The type of a pointer to a function."""

    name: str
    result: str
    arguments: tuple[Variable, ...]


class Function(NamedTuple):
    """An exported function."""

    name: str
    result: str
    arguments: tuple[Variable, ...]


Declaration = Constant | Enum | Struct | Callback | Function


@dataclass
class _Reader:
    """The tokens of a header, and how far they are read."""

    tokens: list[str]
    at: int = 0
    packed: bool = False
    found: list[Declaration] = field(default_factory=list)

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def expect(self, token: str) -> None:
        found = self.take()
        if found != token:
            before = " ".join(self.tokens[max(self.at - 8, 0) : self.at - 1])
            raise SyntaxError(f"{token!r} expected, not {found!r}, after {before}")

    def take_until(self, *ends: str) -> list[str]:
        """Take the tokens before one of ``ends`` outside of brackets; that one is left."""
        taken: list[str] = []
        while self.peek() not in ends:
            closing = _CLOSING.get(self.peek())
            taken.append(self.take())
            if closing is not None:
                taken += [*self.take_until(closing), self.take()]
        return taken

    def skip(self) -> None:
        """Pass over a declaration, to its semicolon or to the end of its body."""
        self.take_until(";", "{")
        if self.take() == "{":
            self.take_until("}")
            self.take()
            if self.peek() == ";":
                self.take()


def read_header(text: str) -> list[Declaration]:
    """Return the declarations of a header in their order. Raises :class:`SyntaxError` for one that it half knows."""
    lines = []
    for line in _COMMENT.sub(" ", text).replace("\\\n", " ").splitlines():
        stripped = line.strip()
        lines.append(_PACK.get(stripped, "") if stripped.startswith("#") else line)
    reader = _Reader(_TOKEN.findall("\n".join(lines)))
    while reader.at < len(reader.tokens):
        _read_declaration(reader)
    return reader.found


def _read_declaration(r: _Reader) -> None:
    first = r.peek()
    if first == "namespace" or (first == "extern" and r.peek(1) == '"C"' and r.peek(2) == "{"):
        r.take_until("{")
        r.take()
    elif first in ("}", ";"):
        r.take()
    elif first in ("__pack__", "__unpack__"):
        r.packed = r.take() == "__pack__"
    elif first == "constexpr":
        _read_constant(r)
    elif first == "enum":
        _read_enum(r)
    elif first == "typedef" and r.peek(1) != "struct":
        _read_callback(r)
    elif first in ("struct", "typedef") and "{" in (r.peek(2), r.peek(3)):
        _read_struct(r)
    elif first.endswith("_EXPORT"):
        _read_function(r)
    else:
        r.skip()


def _read_constant(r: _Reader) -> None:
    start = r.at
    head = r.take_until("=", ";", "{")
    if r.peek() != "=" or "(" in head:  # a function, or an object
        r.at = start
        r.skip()
        return
    r.take()
    value = r.take_until(";")
    r.take()
    r.found.append(Constant(head[-1], tuple(value)))


def _read_enum(r: _Reader) -> None:
    r.take()
    if r.peek() == "class":
        r.take()
    name = r.take()
    underlying = "int"
    if r.peek() == ":":
        r.take()
        underlying = r.take()
    r.expect("{")
    values = []
    while r.peek() != "}":
        enumerator = r.take()
        value: list[str] = []
        if r.peek() == "=":
            r.take()
            value = r.take_until(",", "}")
        if r.peek() == ",":
            r.take()
        values.append((enumerator, tuple(value)))
    r.take()
    r.expect(";")
    r.found.append(Enum(name, underlying, tuple(values)))


def _read_struct(r: _Reader) -> None:
    is_typedef = r.take() == "typedef"
    if is_typedef:
        r.take()
    name = r.take()
    r.expect("{")
    fields: list[Variable] = []
    while r.peek() != "}":
        start = r.at
        tokens = r.take_until(";", "{")
        if r.peek() == "{" or "(" in tokens:  # a method
            r.at = start
            r.skip()
            continue
        r.take()
        fields += _variables(tokens)
    r.take()
    if is_typedef:
        r.expect(name)
    r.expect(";")
    r.found.append(Struct(name, tuple(fields), r.packed))


def _read_callback(r: _Reader) -> None:
    r.take()
    result = _type(r.take_until("("))[0]
    for token in ("(", "*"):
        r.expect(token)
    name = r.take()
    r.expect(")")
    arguments = _arguments(r)
    r.expect(";")
    r.found.append(Callback(name, result, arguments))


def _read_function(r: _Reader) -> None:
    r.take()
    *result, name = r.take_until("(")
    arguments = _arguments(r)
    if r.peek() == "{":
        raise SyntaxError(f"{name} has a body: declare it in a header")
    r.expect(";")
    r.found.append(Function(name, _type(result)[0], arguments))


def _arguments(r: _Reader) -> tuple[Variable, ...]:
    r.expect("(")
    tokens = r.take_until(")")
    r.expect(")")
    if tokens in ([], ["void"]):
        return ()
    arguments: list[Variable] = []
    for part in _split(tokens):
        arguments += _variables(part)
    return tuple(arguments)


def _variables(tokens: list[str]) -> list[Variable]:
    """``const int32_t* a`` or ``float b[3], c = 0``, which declares two."""
    first, *more = _split(tokens)
    name, count, head = _declarator(first)
    type_, is_const = _type(head)
    variables = [Variable(name, type_, is_const, count)]
    for part in more:
        name, count, head = _declarator(part)
        assert not head
        variables.append(Variable(name, type_, is_const, count))
    return variables


def _declarator(tokens: list[str]) -> tuple[str, tuple[str, ...], list[str]]:
    """Name, array size and what stands before the name."""
    if "=" in tokens:
        tokens = tokens[: tokens.index("=")]
    count: tuple[str, ...] = ()
    if tokens[-1] == "]":
        opening = tokens.index("[")
        count, tokens = tuple(tokens[opening + 1 : -1]), tokens[:opening]
    return tokens[-1], count, tokens[:-1]


def _type(tokens: list[str]) -> tuple[str, bool]:
    """Name of a type without ``const`` and namespaces, and whether what it is, or points to, is ``const``."""
    plain = [t for t in tokens if t != "const"]
    while "::" in plain:
        plain = plain[plain.index("::") + 1 :]
    # `T* const` is a constant pointer, not a pointer to what is constant.
    is_const = "const" in tokens[: tokens.index("*")] if "*" in tokens else "const" in tokens
    return "".join(plain), is_const


def _split(tokens: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token in _CLOSING) - (token in _CLOSING.values())
        if token == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts
