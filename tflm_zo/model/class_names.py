# SPDX-License-Identifier: Apache-2.0
"""Names of a model's classes, which the ``.tflite`` carries as metadata: a line each, in the order of the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import text_of
from tflm_zo.model.schema import schema

_ENTRY = "tflm_zo.class_names"


def read_class_names(tree: Any) -> tuple[str, ...]:
    """Return the names of a model's classes, none if it does not carry any."""
    for entry in tree.metadata or []:
        if text_of(entry.name) == _ENTRY and 0 <= entry.buffer < len(tree.buffers):
            data = tree.buffers[entry.buffer].data
            return tuple(bytes(bytearray([] if data is None else data)).decode("utf-8", "replace").split("\n"))
    return ()


def write_class_names(tree: Any, names: Sequence[str]) -> None:
    """Store names in a model's tree, in place of those that it has.

    Raises :class:`ZoError` for an empty name, one with a line break, or one that occurs twice.
    """
    for name in names:
        if not name or "\n" in name:
            raise ZoError(f"{name!r} cannot be the name of a class: give a name of one line")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ZoError(f"two classes have the name {twice[0]!r}: give each its own")
    buffer = schema.BufferT()
    buffer.data = np.frombuffer("\n".join(names).encode(), dtype=np.uint8)
    tree.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = _ENTRY, len(tree.buffers) - 1
    tree.metadata = [e for e in tree.metadata or [] if text_of(e.name) != _ENTRY] + [entry]


def class_label(names: Sequence[str], index: int) -> str:
    """Return what messages call a class: its number, and its name if it has one."""
    return f"{index} ({names[index]})" if index < len(names) else str(index)
