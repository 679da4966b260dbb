# SPDX-License-Identifier: Apache-2.0
"""Names and sizes that the patcher, the readers of patched models and the kernels agree on."""

from __future__ import annotations

import ctypes
from typing import Any

from tflm_zo.ops.layouts import (
    LOSS_OP_NAME,
    MOMENTUM_WORDS,
    NODE_OP_NAME,
    PARAMETER_OP_NAME,
    SESSION_WORDS,
    NodeSetting,
    Setting,
)

PARAMETER_OP, NODE_OP, LOSS_OP = PARAMETER_OP_NAME, NODE_OP_NAME, LOSS_OP_NAME
OP_PREFIX = NODE_OP.removesuffix("NODE")  # of all three

# Names of all tensors that training adds begin so.
PREFIX = "zo/"
INITIAL = PREFIX + "initial/"


def session_words(parameters: int, nodes: int) -> int:
    """Return the 32-bit words of the session with its settings (``kernels/session.h``)."""
    return SESSION_WORDS + (parameters * ctypes.sizeof(Setting) + nodes * ctypes.sizeof(NodeSetting)) // 4


def moments_words(count: int) -> int:
    """Return the floats of the momentum state for ``count`` elements (``kernels/momentum.h``)."""
    return MOMENTUM_WORDS * count


def custom_code(tree: Any, operator: Any) -> str:
    """Return the name of a custom operator, '' for a builtin one."""
    name = tree.operatorCodes[operator.opcodeIndex].customCode
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else (name or "")


def custom_options(operator: Any) -> bytes:
    """Return the options of a custom operator."""
    return bytes(bytearray(operator.customOptions))


def is_patched(tree: Any) -> bool:
    """Whether a model carries the training ops."""
    return any(custom_code(tree, op) == PARAMETER_OP for op in tree.subgraphs[0].operators or [])
