# SPDX-License-Identifier: Apache-2.0
"""Which ops a model needs, and how TFLM's op resolver is told of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tflm_zo.errors import ZoError
from tflm_zo.model.file import builtin_code, builtin_name, schema
from tflm_zo.ops.names import LOSS_OP, NODE_OP, PARAMETER_OP, custom_code

# Builtin operators whose method of MicroMutableOpResolver is "Add" and the words of the name, capitalised.
_REGULAR_NAMES = """
ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE BATCH_TO_SPACE_ND BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL
CONCATENATION COS DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS
FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF
L2_NORMALIZATION LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM
MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN
RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE
SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB
SUM SVDF TANH TRANSPOSE TRANSPOSE_CONV UNPACK VAR_HANDLE WHILE ZEROS_LIKE
"""
_REGULAR = frozenset(_REGULAR_NAMES.split())
_IRREGULAR = {
    "AVERAGE_POOL_2D": "AddAveragePool2D",
    "BATCH_MATMUL": "AddBatchMatMul",
    "CONV_2D": "AddConv2D",
    "CUMSUM": "AddCumSum",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "L2_POOL_2D": "AddL2Pool2D",
    "MAX_POOL_2D": "AddMaxPool2D",
    "PADV2": "AddPadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
}
# TFLM learned these after the Arduino libraries of 2023/24 were made.
_RECENT = {
    "BATCH_MATMUL",
    "DYNAMIC_UPDATE_SLICE",
    "EMBEDDING_LOOKUP",
    "REDUCE_ALL",
    "REDUCE_MIN",
    "REVERSE_V2",
}


@dataclass(frozen=True)
class TrainingOp:
    """An op of ours: the C++ names of its name and its registration."""

    name: str
    registration: str


_TRAINING_OPS = {
    PARAMETER_OP: TrainingOp("kParameterOpName", "ParameterOp"),
    NODE_OP: TrainingOp("kNodeOpName", "NodeOp"),
    LOSS_OP: TrainingOp("kLossOpName", "LossOp"),
}


@dataclass(frozen=True)
class ModelOps:
    """``builtin``: methods of the resolver; ``training``: our ops; both in the order of the model's table."""

    builtin: tuple[str, ...]
    training: tuple[TrainingOp, ...]

    @property
    def count(self) -> int:
        """Entries that the resolver needs."""
        return len(self.builtin) + len(self.training)


def add_method(name: str) -> str | None:
    """Return the resolver's method for a ``BuiltinOperator`` name, or None if TFLM has no such op."""
    if name in _REGULAR:
        return "Add" + "".join(word.capitalize() for word in name.split("_"))
    return _IRREGULAR.get(name)


def model_ops(tree: Any, recent: bool = True) -> ModelOps:
    """Return the ops that the operators of ``tree`` use.

    recent: False for a TFLM of 2023/24, as the Arduino libraries carry it. Raises :class:`ZoError` naming an op
    that TFLM lacks.
    """
    builtin: dict[str, None] = {}
    training: dict[TrainingOp, None] = {}
    for graph in tree.subgraphs:
        for operator in graph.operators or []:
            number = builtin_code(tree, operator)
            if number == schema.BuiltinOperator.CUSTOM:
                custom = custom_code(tree, operator)
                if custom not in _TRAINING_OPS:
                    raise ZoError(f"the model has the custom op {custom!r}, which the export does not know")
                training[_TRAINING_OPS[custom]] = None
                continue
            name = builtin_name(number)
            method = add_method(name)
            if method is None:
                raise ZoError(f"the model has the op {name}, which TFLM lacks: change the layer that makes it")
            if name in _RECENT and not recent:
                raise ZoError(
                    f"the model has the op {name}, which TFLM's Arduino libraries of 2023/24 lack: export with "
                    "--tflm-library tree and a library made from a current TFLM"
                )
            builtin[method] = None
    return ModelOps(tuple(builtin), tuple(training))
