# SPDX-License-Identifier: Apache-2.0
"""Names and sizes that the patcher, the readers of patched models and the kernels agree on."""

from __future__ import annotations

from typing import Any

OP_PREFIX = "TFLM_ZO_"
PARAMETER_OP = OP_PREFIX + "PARAMETERS"
NODE_OP = OP_PREFIX + "NODE"
LOSS_OP = OP_PREFIX + "LOSS"

# Names of all tensors that training adds begin so.
PREFIX = "zo/"
INITIAL = PREFIX + "initial/"

# Sizes in 32-bit words, as in kernels/session.h.
COMMAND_WORDS = 20
REPORT_WORDS = 8
SESSION_WORDS = 85  # without the settings
SETTING_WORDS = 3
NODE_SETTING_WORDS = 4


def moments_words(count: int) -> int:
    """Return the floats of the momentum state for ``count`` elements (``kernels/momentum.h``)."""
    return 2 * count


def custom_code(tree: Any, operator: Any) -> str:
    """Return the name of a custom operator, '' for a builtin one."""
    name = tree.operatorCodes[operator.opcodeIndex].customCode
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else (name or "")


def is_patched(tree: Any) -> bool:
    """Whether a model carries the training ops."""
    return any(custom_code(tree, op) == PARAMETER_OP for op in tree.subgraphs[0].operators or [])
