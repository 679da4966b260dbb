# SPDX-License-Identifier: Apache-2.0
"""Bytes of TFLM's structures in its builds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layout:
    """Bytes of TFLM's structures in one build. ``kernel_data`` is what an op's state takes, ``builtin_data`` its
    parsed options, both by the schema's operator name; ops that are not listed take ``unknown_op``."""

    title: str
    pointer: int
    fixed: tuple[int, ...]  # arena allocator, planner, model allocator
    subgraph: int
    eval_tensor: int
    node: int
    tensor: int
    affine: int
    allocation_info: int
    kernel_data: dict[str, int] = field(repr=False)
    builtin_data: dict[str, int] = field(repr=False)
    unknown_op: int = 64


_BUILTIN_32 = {
    "CONV_2D": 28, "DEPTHWISE_CONV_2D": 28, "AVERAGE_POOL_2D": 40, "MAX_POOL_2D": 40, "L2_POOL_2D": 40,
    "FULLY_CONNECTED": 5, "SOFTMAX": 4, "ADD": 2, "SUB": 2, "MUL": 1, "MEAN": 1, "SUM": 1, "REDUCE_MAX": 1,
    "RESHAPE": 36, "CONCATENATION": 8, "STRIDED_SLICE": 24, "SQUEEZE": 36, "LEAKY_RELU": 4, "CAST": 2,
}  # fmt: skip
_KERNEL_32 = {
    "CONV_2D": 56, "DEPTHWISE_CONV_2D": 56, "AVERAGE_POOL_2D": 32, "MAX_POOL_2D": 32, "FULLY_CONNECTED": 48,
    "SOFTMAX": 56, "ADD": 60, "SUB": 52, "MUL": 36, "MEAN": 44, "SUM": 44, "REDUCE_MAX": 44, "RESHAPE": 0,
    "CONCATENATION": 24, "STRIDED_SLICE": 84, "SQUEEZE": 0, "LEAKY_RELU": 24, "LOGISTIC": 16, "TANH": 16,
    "RELU": 28, "RELU6": 8, "HARD_SWISH": 20, "QUANTIZE": 32, "DEQUANTIZE": 32, "PAD": 56, "PADV2": 56,
    "MAXIMUM": 0, "MINIMUM": 0, "TRANSPOSE": 0, "EXPAND_DIMS": 0, "CAST": 0, "RSQRT": 20,
}  # fmt: skip

# A current TFLM (2026) on a 32-bit microcontroller, built as its makefile does.
TFLM_32 = Layout("TFLM of 2026, 32-bit", 4, (36, 44, 36), 8, 12, 32, 32, 12, 24, _KERNEL_32, _BUILTIN_32)
# The Arduino libraries: TFLM of 2023/24, built without TF_LITE_STATIC_MEMORY: tensors and nodes have more fields.
ARDUINO_32 = Layout(
    "Arduino library, 32-bit", 4, (36, 44, 36), 8, 12, 44, 64, 12, 24,
    _KERNEL_32 | {"FULLY_CONNECTED": 36, "MEAN": 40, "RELU6": 2},
    _BUILTIN_32 | {"CONV_2D": 24, "FULLY_CONNECTED": 4, "STRIDED_SLICE": 20},
)  # fmt: skip
# The Python wheel: 64-bit, built for compressed models too, with the allocator that records its allocations.
WHEEL_64 = Layout(
    "Python wheel, 64-bit", 8, (104, 72, 272), 24, 24, 64, 64, 24, 32,
    _KERNEL_32
    | {"CONV_2D": 72, "DEPTHWISE_CONV_2D": 72, "FULLY_CONNECTED": 72, "SOFTMAX": 80, "CONCATENATION": 40, "RSQRT": 28},
    _BUILTIN_32 | {"FULLY_CONNECTED": 16, "ADD": 8, "SUB": 8, "MUL": 4, "CAST": 8},
)  # fmt: skip
