# SPDX-License-Identifier: Apache-2.0
"""Structures of C++ as Python objects, and functions of compiled libraries."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import numpy as np

# What fields are annotated with: the type in Python, and that in C.
I8 = Annotated[int, ctypes.c_int8]
I16 = Annotated[int, ctypes.c_int16]
I32 = Annotated[int, ctypes.c_int32]
I64 = Annotated[int, ctypes.c_int64]
U8 = Annotated[int, ctypes.c_uint8]
U16 = Annotated[int, ctypes.c_uint16]
U32 = Annotated[int, ctypes.c_uint32]
U64 = Annotated[int, ctypes.c_uint64]
F32 = Annotated[float, ctypes.c_float]
F64 = Annotated[float, ctypes.c_double]
Address = Annotated[int | None, ctypes.c_void_p]
Bytes = Annotated[bytes | None, ctypes.c_char_p]

Prototypes = Mapping[str, tuple[Any, list[Any]]]
"""Result and arguments (ctypes; a result of None: nothing) of functions, by their names."""


class _StructureType(type(ctypes.Structure)):  # type: ignore[misc]
    """Gives a structure the fields that it annotates, before ctypes lays it out."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        hints = namespace.get("__annotations__", {})
        if hints and not any(hasattr(base, "_fields_") for base in bases):
            namespace = {**namespace, "_fields_": [(field, _c_type(hint)) for field, hint in hints.items()]}
        return super().__new__(mcs, name, bases, namespace)


def _c_type(hint: Any) -> Any:
    if isinstance(hint, str):
        raise TypeError("a module with structures must not postpone the evaluation of annotations")
    return hint.__metadata__[0] if get_origin(hint) is Annotated else hint


if TYPE_CHECKING:  # mypy takes ctypes' metaclass, which has no name of its own, for another one
    _Base = ctypes.Structure
else:
    _Base = _StructureType("_Base", (ctypes.Structure,), {})


class Structure(_Base):
    """A C++ struct: ``bytes(value)`` is its memory, ``from_buffer_copy`` reads it.

    A subclass annotates its fields, in their order, with the types above, with other structures, or with
    ``Annotated[type in Python, type in ctypes]``; those of a class that has fields already are plain annotations.
    Values are given in that order or by name, the others are 0; :class:`OverflowError` for one that does not fit.
    Two are equal if they are of one type and all their bytes are equal.
    """

    def __init__(self, *values: Any, **named: Any) -> None:
        names = [field[0] for field in self._fields_]
        if len(values) > len(names):
            raise TypeError(f"{type(self).__name__} has {len(names)} fields, not {len(values)}")
        # ctypes would keep a misspelt field beside the others.
        if unknown := named.keys() - set(names):
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}")
        given = dict(zip(names, values, strict=False)) | named
        plain = {name: _plain(value) for name, value in given.items()}
        super().__init__(**plain)
        for name, value in plain.items():
            # ctypes would drop the bits that do not fit.
            kept = getattr(self, name)
            if isinstance(value, int) and isinstance(kept, int) and kept != value:
                raise OverflowError(f"{type(self).__name__}.{name} cannot hold {value}")

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, field[0]) for field in self._fields_)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and type(self) is type(other) and bytes(self) == bytes(other)

    def __hash__(self) -> int:
        return hash(bytes(self))

    def __repr__(self) -> str:
        fields = (f"{field[0]}={getattr(self, field[0])!r}" for field in self._fields_)
        return f"{type(self).__name__}({', '.join(fields)})"


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, which ctypes insists on."""
    return value.item() if isinstance(value, np.generic) else value


def declare(library: ctypes.CDLL, prototypes: Prototypes) -> None:
    """Declare the functions of ``library``; raises :class:`AttributeError` if one is missing."""
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
