# SPDX-License-Identifier: Apache-2.0
"""Patched models whose training ops somebody has tampered with, and a program that tries what they do.

The program, for a process of its own since what is wrong may end it: FOLDER holds models; for each it tells in a line
how every command, or training in each engine, ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import small_models

from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model, save_model, schema, tensor_name
from tflm_zo.ops.layouts import LossInput, LossOutput, NodeInput, ParameterInput
from tflm_zo.ops.names import LOSS_OP, NODE_OP, PARAMETER_OP, PREFIX, custom_code
from tflm_zo.ops.option_layouts import LayerShape, LossOptions, NodeOptions, ParameterEntry, ParameterOptions
from tflm_zo.ops.options import unpack_parameters
from tflm_zo.patching.patch import patch
from tflm_zo.training.trainer import Trainer

Edit = Callable[["Tampered"], None]
NUMBERS = (0, -1, 2, 1000, (1 << 31) - 1, -(1 << 31))


class Tampered:
    """A patched model's tree, with what attacks on its training ops need."""

    def __init__(self, patched: bytes) -> None:
        self.tree = load_model(patched)
        self.graph = self.tree.subgraphs[0]

    def ops(self, name: str) -> list[Any]:
        """The training ops of a name."""
        return [op for op in self.graph.operators if custom_code(self.tree, op) == name]

    def tensor(self, name: str) -> Any:
        """The tensor that training calls so."""
        return next(t for t in self.graph.tensors if tensor_name(t) == PREFIX + name)

    def set_option(self, op: Any, offset: int, value: int) -> None:
        """Replace the 32-bit word ``offset`` bytes behind the start of an op's options."""
        words = np.frombuffer(bytes(bytearray(op.customOptions)), "<i4").copy()
        words[offset // 4] = value
        op.customOptions = np.frombuffer(words.tobytes(), np.uint8)

    def set_shape(self, name: str, *shape: int) -> None:
        """Give a tensor another shape."""
        self.tensor(name).shape = np.array(shape, np.int32)

    def set_input(self, op: Any, position: int, tensor: int) -> None:
        """Replace an op's input."""
        op.inputs = np.array([*op.inputs[:position], tensor, *op.inputs[position + 1 :]], np.int32)

    def add_constant(self, shape: tuple[int, ...], words: list[int]) -> int:
        """Add an int32 tensor with values; return its index."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.array(words, "<u4").tobytes(), np.uint8)
        self.tree.buffers.append(buffer)
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = b"evil", np.array(shape, np.int32), schema.TensorType.INT32
        tensor.buffer = len(self.tree.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def states(self) -> tuple[Any, ...]:
        """What the parameter op clears."""
        return unpack_parameters(bytes(bytearray(self.ops(PARAMETER_OP)[0].customOptions))).states

    def bytes(self) -> bytes:
        """The model as a file."""
        return save_model(self.tree)


def _node(field: str, value: int, number: int = -1) -> Edit:
    if hasattr(LayerShape, field):
        offset = NodeOptions.shape.offset + getattr(LayerShape, field).offset
    else:
        offset = getattr(NodeOptions, field).offset
    return lambda model: model.set_option(model.ops(NODE_OP)[number], offset, value)


def _loss(field: str, value: int) -> Edit:
    return lambda model: model.set_option(model.ops(LOSS_OP)[0], getattr(LossOptions, field).offset, value)


def _head(field: str, value: int) -> Edit:
    return lambda model: model.set_option(model.ops(PARAMETER_OP)[0], getattr(ParameterOptions, field).offset, value)


def _entry(number: int, field: str, value: int) -> Edit:
    offset = ctypes.sizeof(ParameterOptions) + number * ctypes.sizeof(ParameterEntry)
    offset += getattr(ParameterEntry, field).offset
    return lambda model: model.set_option(model.ops(PARAMETER_OP)[0], offset, value)


def _shape(name: str, *shape: int) -> Edit:
    return lambda model: model.set_shape(name, *shape)


def _type(name: str, kind: int) -> Edit:
    def edit(model: Tampered) -> None:
        model.tensor(name).type = kind

    return edit


def _input(op: str, position: int, tensor: int, number: int = -1) -> Edit:
    return lambda model: model.set_input(model.ops(op)[number], position, tensor)


def _option(op: str, offset: int, value: int, number: int) -> Edit:
    return lambda model: model.set_option(model.ops(op)[number], offset, value)


def _report_address(model: Tampered) -> None:
    report = model.add_constant((8,), [0x5A4F5245, 0, 0, 0, 0xDEAD0000, 0x7FFF, 0, 0])
    model.graph.outputs = np.array([*model.graph.outputs[:-1], report], np.int32)


def _constant_session(model: Tampered) -> None:
    words = [0x5A4F5345] + [0] * (int(model.tensor("session").shape[0]) - 1)
    model.set_input(model.ops(LOSS_OP)[0], LossInput.SESSION, model.add_constant((len(words),), words))


def _constant_weights(model: Tampered) -> None:
    initial = model.tensor("initial/spread/weights")
    variable = next(t for t in model.graph.tensors if tensor_name(t) == "spread/depthwise")
    variable.buffer, variable.isVariable = initial.buffer, False


def _written_by_a_layer(model: Tampered) -> None:
    reshape = next(op for op in model.graph.operators if custom_code(model.tree, op) == "" and len(op.inputs) == 2)
    session = next(i for i, t in enumerate(model.graph.tensors) if tensor_name(t) == PREFIX + "session")
    reshape.outputs = np.array([*reshape.outputs, session], np.int32)


def _cut_options(model: Tampered) -> None:
    op = model.ops(LOSS_OP)[0]
    op.customOptions = op.customOptions[:40]


def _short_initial_values(model: Tampered) -> None:
    buffer = model.tree.buffers[model.tensor("initial/spread/weights").buffer]
    buffer.data = buffer.data[:-8]


def _without_gradient_output(model: Tampered) -> None:
    op = model.ops(LOSS_OP)[0]
    op.outputs = np.array([op.outputs[LossOutput.REPORT], -1], np.int32)


ATTACKS: dict[str, Edit] = {
    "residual_5": _shape("residual", 5),
    "report_int8": _type("report", schema.TensorType.INT8),
    "feature_gradient_1": _shape("feature_gradient", 1),
    "feature_gradient_int8": _type("feature_gradient", schema.TensorType.INT8),
    "node_number": _node("node", 65535, 0),
    "node_number_negative": _node("node", -1),
    "node_no_initial_bias": _input(NODE_OP, NodeInput.INITIAL_BIAS, -1),
    "depth_mult_0": _node("depth_multiplier", 0),
    "depth_mult_0b": _node("depth_multiplier", 0, 0),
    "depth_mult_2": _node("depth_multiplier", 2),
    "window_width_0": _node("window_width", 0),
    "window_height_0": _node("window_height", 0),
    "pooled_width": _node("pooled_width", 1000),
    "stride_0": _node("stride_height", 0),
    "stride_huge": _node("stride_height", (1 << 31) - 1),
    "pad_negative": _node("pad_top", -5),
    "output_channels": _node("output_channels", 12),
    "product_overflow": _node("input_height", 1 << 28),
    "channels_1000": _node("channels", 1000),
    "features_neg": _loss("features", -1),
    "features_huge": _loss("features", 1 << 30),
    "outputs_huge": _loss("outputs", (1 << 31) - 1),
    "loss_kind_7": _loss("kind", 7),
    "initial_bias_int8": _type("initial/spread/bias", schema.TensorType.INT8),
    "initial_weights_int32": _type("initial/spread/weights", schema.TensorType.INT32),
    "initial_short": _short_initial_values,
    "kind_3": _entry(0, "kind", 3),
    "factor_offset": _entry(0, "factor_offset", 1 << 24),
    "factor_count": _entry(0, "factor_count", 1 << 24),
    "channel_stride_0": _entry(0, "channel_stride", 0),
    "headroom_negative": _entry(0, "headroom", -(1 << 31)),
    "variable_input": _entry(0, "variable_input", 1 << 20),
    "parameter_count_1000": _head("parameter_count", 1000),
    "parameter_count_huge": _head("parameter_count", (1 << 31) - 1),
    "node_count": _head("node_count", 1 << 28),
    "reference_channels": _head("reference_channels", 1 << 30),
    "no_feature_gradient": _input(NODE_OP, NodeInput.FEATURE_GRADIENT, -1),
    "no_gradient_output": _without_gradient_output,
    "options_40_bytes": _cut_options,
    "report_address": _report_address,
    "session_of_the_loss_op": _constant_session,
    "session_written": _written_by_a_layer,
    "constant_weights": _constant_weights,
    "session_short": _shape("session", 90),
    "target_scalar": _shape("target"),
    "report_of_2_dimensions": _shape("report", 4, 2),
    "command_short": _shape("command", 4),
    "positions_2": _loss("positions", 2),
    "positions_huge": _loss("positions", (1 << 31) - 1),
    "output_7": _loss("output", 7),
    "state_count": _head("state_count", 1 << 28),
    "command_is_session": _input(PARAMETER_OP, ParameterInput.COMMAND, 0),
}
"""What somebody may do to a patched model, all of which is refused."""


def attacked(name: str) -> bytes:
    """Return a patched model after the attack of that name."""
    model = Tampered(patch(small_models.small_model(), "exact"))
    ATTACKS[name](model)
    return model.bytes()


def mutations(patched: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield a model for each option, input, and tensor of the training ops that is something else."""

    def altered(name: str, edit: Edit) -> tuple[str, bytes]:
        model = Tampered(patched)
        edit(model)
        return name, model.bytes()

    whole = Tampered(patched)
    tensors = len(whole.graph.tensors)
    for op_name in (PARAMETER_OP, NODE_OP, LOSS_OP):
        for number, op in enumerate(whole.ops(op_name)):
            for word in range(len(op.customOptions) // 4):
                for value in NUMBERS:
                    yield altered(
                        f"{op_name}.{number} word {word} = {value}", _option(op_name, 4 * word, value, number)
                    )
            for position in range(len(op.inputs)):
                for tensor in range(-1, tensors, 4):
                    yield altered(
                        f"{op_name}.{number} input {position} = {tensor}", _input(op_name, position, tensor, number)
                    )
    names = [tensor_name(t).removeprefix(PREFIX) for t in whole.graph.tensors if tensor_name(t).startswith(PREFIX)]
    for name in names:
        for kind in (schema.TensorType.INT8, schema.TensorType.INT32, schema.TensorType.FLOAT32):
            yield altered(f"{name} of type {kind}", _type(name, kind))
        for shape in ((), (0,), (1,), (7,), (1 << 20,)):
            yield altered(f"{name} of shape {shape}", _shape(name, *shape))


def train_all(patched: bytes, engines: tuple[str, ...]) -> dict[str, int]:
    """Train each of :func:`mutations` a little; returns how many were refused and how many trained."""
    x, y = small_models.separable_samples(4, 0)
    ends = {"refused": 0, "trained": 0}
    for name, model in mutations(patched):
        for engine in engines:
            print(name, engine, flush=True)  # the last line names what has ended the process
            try:
                trainer = Trainer(model, engine=engine)
                trainer.fit(x, y, epochs=1, holdout=0)
                trainer.bake()
                ends["trained"] += 1
            except ZoError as error:
                assert "\n" not in str(error)
                ends["refused"] += 1
    return ends


def run_commands(model: Path, data: Path, folder: Path) -> None:
    """Give a model to every command that takes one; tells how each ended in a line."""
    from click.testing import CliRunner

    from tflm_zo.cli.main import main

    out, end = str(folder / "out"), ["--epochs", "1", "--quiet"]
    words = {
        "train": [str(model), "--data", str(data), "-o", out, *end],
        "eval": [str(model), "--data", str(data)],
        "inspect": [str(model)],
        "plan": [str(model)],
        "bake": [str(model), "--checkpoint", str(data), "-o", out],
        "export arduino": [str(model), "-o", out],
        "tune": [str(model), "--data", str(data), "-o", out, "--trials", "1", "--jobs", "1", *end],
        "realign": [str(model), "--reference", str(data), "--data", str(data), "-o", out],
        "select": [str(model), "--data", str(data), "--jobs", "1", "--quiet"],
    }
    for command, arguments in words.items():
        print(f"{command}: ", end="", flush=True)
        result = CliRunner().invoke(main, [*command.split(), *arguments])
        told = result.stderr.strip().splitlines() or [repr(result.exception)]
        print(f"{result.exit_code} {len(told)} {told[-1]}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1] == "commands":
        run_commands(*(Path(word) for word in sys.argv[2:5]))
    else:
        with contextlib.redirect_stderr(io.StringIO()):
            print(
                json.dumps(
                    train_all(patch(small_models.small_model(), sys.argv[2], accumulate=True), tuple(sys.argv[3:]))
                )
            )
