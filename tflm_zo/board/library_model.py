# SPDX-License-Identifier: Apache-2.0
"""A model as a packaging of TFLM can run it: the host's codes, or none."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from tflm_zo.board.equal_layers import replace_layers
from tflm_zo.board.kernel_limits import OLD_LIBRARIES, first_limit
from tflm_zo.board.tflm_libraries import find_library
from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model, save_model
from tflm_zo.model.graph import Operator, main_graph
from tflm_zo.model.layers import trainable_layers
from tflm_zo.ops.names import is_patched
from tflm_zo.patching.patched_model import parameter_table


@dataclass(frozen=True)
class LibraryModel:
    """``data``: the model, the given bytes if its kernels need nothing else; ``replaced``: the tensors that other
    layers now compute, to the same codes."""

    data: bytes
    replaced: tuple[str, ...]


def library_model(model: bytes, library: str) -> LibraryModel:
    """Return ``model``, patched or not, for the TFLM library that ``--tflm-library`` calls ``library``.

    Raises :class:`ZoError` naming layer, library and remedy if a kernel there would give other codes than the host's,
    and no other layer gives the same.
    """
    title = find_library(library).name
    tree = load_model(model)
    replaced = replace_layers(tree) if library in OLD_LIBRARIES else ()
    found = first_limit(library, main_graph(tree))
    if found is not None:
        operator, limit = found
        raise ZoError(f"{_label(tree, operator)}: in {title} its kernel {limit.why}: {limit.remedy}")
    return LibraryModel(save_model(tree) if replaced else bytes(model), replaced)


def _label(tree: Any, operator: Operator) -> str:
    """The layer's name where its weights have one, else the operator's number."""
    names = {p.tensor: p.layer for p in parameter_table(tree)} if is_patched(tree) else {}
    # A model that is not in int8 has no layers that could be trained, but operators that can be refused.
    with contextlib.suppress(ZoError):
        names |= {layer.weights: layer.name for layer in trainable_layers(tree)}
    name = next((names[i] for i in operator.inputs[1:2] if i in names), None)
    return f"operator {operator.index} ({operator.name})" if name is None else f"layer {name} ({operator.name})"
