# SPDX-License-Identifier: Apache-2.0
"""Writes the Python modules that repeat what C++ headers declare: structures, enumerations, constants, functions.

python tools/generate_layouts.py  # after a change to one of the headers that MODULES names
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))
from cpp_declarations import Callback, Constant, Declaration, Enum, Function, Struct, Variable, read_header

ROOT = Path(__file__).resolve().parents[1]
_WIDTH = 120

_NUMBERS = {
    "bool": "c_bool", "char": "c_char", "int": "c_int", "int8_t": "c_int8", "int16_t": "c_int16", "int32_t": "c_int32",
    "int64_t": "c_int64", "uint8_t": "c_uint8", "uint16_t": "c_uint16", "uint32_t": "c_uint32", "uint64_t": "c_uint64",
    "float": "c_float", "double": "c_double", "void": "None",
}  # fmt: skip
_FROM_CTYPES = {*_NUMBERS.values(), "c_void_p", "c_char_p", "Array", "POINTER", "CFUNCTYPE"} - {"None"}
_FIELD_TYPES = {
    "c_int8": "I8", "c_int16": "I16", "c_int32": "I32", "c_int64": "I64", "c_uint8": "U8", "c_uint16": "U16",
    "c_uint32": "U32", "c_uint64": "U64", "c_float": "F32", "c_double": "F64",
}  # fmt: skip
_FROM_NATIVE = {*_FIELD_TYPES.values(), "Address", "Bytes", "Prototypes", "Structure"}
# What a field points to by its type. Memory of bytes is an address, as all memory is in an argument of a function:
# callers give addresses of NumPy arrays.
_NUMBER_POINTERS = {"int32_t", "int64_t", "float", "double"}


@dataclass(frozen=True)
class Header:
    """A header, and which of its declarations are taken over ("*": its functions)."""

    path: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Module:
    """A module to write. ``headers`` in an order in which each names only what is known."""

    path: str
    docstring: str
    headers: tuple[Header, ...]


MODULES = (
    Module(
        "tflm_zo/ops/layouts.py",
        "Structures, enumerations and constants that drive the training ops.",
        (
            Header("kernels/random.h", ("kGoldenRatio", "Stream")),
            Header("kernels/mask.h", ("MaskKind", "Mask")),
            Header(
                "kernels/session.h",
                (
                    "kCommandMagic", "kReportMagic", "kMaxQueries", "Action", "Command", "kCommandWords", "Setting",
                    "NodeSetting", "Session", "kSessionWords", "Report", "kReportWords",
                ),
            ),
            Header("kernels/parameter_op.h", ("kParameterOpName", "ParameterInput", "kParameterStateWords")),
            Header("kernels/node_op.h", ("kNodeOpName", "NodeInput", "kNodeStateWords")),
            Header("kernels/loss_op.h", ("kLossOpName", "LossInput", "LossOutput", "kLossStateWords")),
            Header("kernels/momentum.h", ("kMomentumWords",)),
            Header("kernels/schedule.h", ("kMaxGroups", "GroupMode", "Exact", "ScheduleGroup", "ScheduleSettings")),
            Header(
                "kernels/recalibrate.h",
                ("ChannelSum", "RecalibrationStatus", "kLeastRecalibrationSamples", "kAdapterUnit"),
            ),
            Header("micro_app/src/app/model_runtime.h", ("ModelInput", "ModelOutput", "kMostKeptTensors")),
        ),
    ),
    Module(
        "tflm_zo/ops/option_layouts.py",
        "Custom options of the training ops.",
        (
            Header("kernels/layer_shape.h", ("LayerKind", "LayerShape")),
            Header(
                "kernels/op_options.h",
                (
                    "kOptionsVersion", "kParameterOptionsMagic", "kLossOptionsMagic", "kNodeOptionsMagic",
                    "ParameterKind", "ParameterEntry", "StateEntry", "ParameterOptions", "LossKind", "LossOptions",
                    "NodeOptions",
                ),
            ),
        ),
    ),
    Module(
        "tflm_zo/ops/host_api.py",
        "Functions of the compiled ops on a host.",
        (
            Header("kernels/host_api.h", ("*",)),
            Header("kernels/host_check.h", ("TrainingOpKind", "CheckedType", "CheckedTensor", "CheckedOp", "*")),
        ),
    ),
    Module(
        "tflm_zo/tflm/plugin_api.py",
        "Functions of the plugin for TFLM's wheel.",
        (Header("kernels/host_plugin.h", ("*",)),),
    ),
    Module(
        "tflm_zo/simulator/layouts.py",
        "Structures, enumerations, constants and functions of the simulator's library.",
        (
            Header("kernels/sim/kernels.h", ("kAddHeadroomBits", "InstructionSet")),
            Header("kernels/sim/lookup.h", ("kLogisticFractionBits",)),
            Header("kernels/sim/softmax.h", ("kSoftmaxDiffFractionBits",)),
            Header("kernels/sim/op_host.h", ("ElementType",)),
            Header(
                "kernels/sim/sim_api.h",
                (
                    "TflmZoSimWindow", "TflmZoSimQuantization", "TflmZoSimAddParams", "TflmZoSimMeanParams",
                    "TflmZoSimProductParams", "TflmZoSimOperand", "TflmZoSimRequantizeParams",
                    "TflmZoSimLogisticParams", "TflmZoSimMatmulParams", "TflmZoSimLstmParams", "*",
                ),
            ),
            Header(
                "kernels/sim/train_api.h",
                (
                    "TflmZoSimTrainingTensor", "TflmZoSimTrainingOp", "TflmZoSimTrainingParameter",
                    "TflmZoSimTrainingNode", "TflmZoSimTraining", "*",
                ),
            ),
        ),
    ),
    Module(
        "tflm_zo/board/layouts.py",
        "Structures and constants of the app that a board's memory is planned by.",
        (
            Header("micro_app/src/app/checkpoint.h", ("kCheckpointHeaderSize", "CheckpointStatus")),
            Header("micro_app/src/app/training_progress.h", ("TrainingProgress",)),
            Header("micro_app/src/app/nano33ble.h", ("kNano33BleFlashBytes", "kNano33BleCheckpointBytes")),
        ),
    ),
    Module(
        "tflm_zo/serial/layouts.py",
        "Frames and messages of the serial protocol.",
        (
            Header(
                "micro_app/src/app/framing.h",
                ("kFrameVersion", "kLongestRun", "FrameHeader", "kFrameHeaderSize", "kFrameCrcSize", "kFrameOverhead"),
            ),
            Header("micro_app/src/app/hal.h", ("LedState",)),
            Header("micro_app/src/app/trainer_status.h", ("TrainerStatus",)),
            Header("micro_app/src/app/messages.h", ("kMessageVersion", "Request", "kAnswerBit", "AnswerStatus")),
            Header(
                "micro_app/src/app/message_layouts.h",
                (
                    "HelloRequest", "HelloAnswer", "ParameterRequest", "ParameterAnswer", "StepTotals",
                    "MetricsAnswer", "ReadModelRequest", "PieceRequest", "InferAnswer", "EvaluateAnswer",
                    "StepRequest", "BatchAnswer", "PassesAnswer", "ChannelsAnswer", "ObservedAnswer",
                    "GroupFields", "ScheduleRequest", "SetParameterRequest", "SetNodeRequest", "CheckpointAnswer",
                    "ReadWeightsRequest", "WriteWeightsRequest",
                ),
            ),
        ),
    ),
    Module(
        "tflm_zo/serial/host_app_layouts.py",
        "Structures and functions of the app on the host.",
        (
            Header(
                "micro_app/host/host_app.h",
                ("TflmZoTensor", "TflmZoInvoke", "TflmZoShow", "TflmZoHostConfig", "*"),
            ),
        ),
    ),
    Module(
        "tests/stream_layouts.py",
        "Parts of a training stream.",
        (
            Header(
                "micro_app/src/app/training_stream.h",
                ("kStreamMagic", "kStreamVersion", "StreamHeader", "StreamSchedule", "StreamItem", "StreamStep"),
            ),
        ),
    ),
)  # fmt: skip


class Writer:
    """Turns declarations into Python. ``scope``: what the modules before have defined, by its Python name."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {name: getattr(ctypes, name) for name in _FROM_CTYPES}
        native = importlib.util.spec_from_file_location("native", ROOT / "tflm_zo/ops/native.py")
        assert native is not None and native.loader is not None
        module = importlib.util.module_from_spec(native)
        native.loader.exec_module(module)  # by itself: what it lies in imports the modules that are to be written
        self.scope |= {name: getattr(module, name) for name in _FROM_NATIVE}
        self.numbers = dict(_NUMBERS)  # of a type: the one of ctypes; an enum has that of its underlying type
        self.home: dict[str, str] = {}  # of a name that a module defines: the module
        exec("import enum\nfrom typing import Annotated, Any", self.scope)

    def module(self, module: Module) -> str:
        """Return the text of a module, and define what it defines."""
        dotted = module.path.removesuffix(".py").replace("/", ".")
        body: list[str] = []
        functions: list[Function] = []
        for header in module.headers:
            wanted = dict.fromkeys(header.names)
            body.append(f"# {header.path}\n")
            for declaration in read_header((ROOT / header.path).read_text()):
                if isinstance(declaration, Function):
                    functions += [declaration] if "*" in wanted else []
                elif declaration.name in wanted:
                    text = self._declaration(declaration, header.path)
                    # Not with the future import above: annotations are what a structure is made of.
                    exec(compile(text, header.path, "exec", dont_inherit=True), self.scope)
                    self.home[python_name(declaration.name)] = dotted
                    body.append(text)
                    del wanted[declaration.name]
            if missing := wanted.keys() - {"*"}:
                raise SystemExit(f"{header.path} does not declare {', '.join(missing)}")
        if functions:
            body.append(self._prototypes(functions))
        return self._head(module, dotted, "\n".join(body)) + _spaced(body)

    def _head(self, module: Module, dotted: str, body: str) -> str:
        used = set(re.findall(r"\b\w+\b", re.sub(r"#.*|\"\"\".*?\"\"\"|\"[^\"]*\"", "", body)))
        native = sorted(used & _FROM_NATIVE, key=_import_order)
        ours = {f"from tflm_zo.ops.native import {', '.join(native)}"} if native else set()
        for name in sorted(used & self.home.keys()):
            if self.home[name] != dotted:
                ours.add(f"from {self.home[name]} import {name}")
        lines = [
            "# SPDX-License-Identifier: Apache-2.0",
            "# Written by tools/generate_layouts.py from the C++ headers named below: change those, and run it again.",
            f'"""{module.docstring}"""\n',
        ]
        standard = ["import enum"] if "enum" in used else []
        if from_ctypes := sorted(used & _FROM_CTYPES, key=_import_order):
            standard.append(f"from ctypes import {', '.join(from_ctypes)}")
        if typing := sorted(used & {"Annotated", "Any"}):
            standard.append(f"from typing import {', '.join(typing)}")
        groups = [group for group in (standard, sorted(ours, key=str.casefold)) if group]
        return "\n".join(lines) + "\n" + "\n\n".join("\n".join(group) for group in groups) + "\n"

    def _declaration(self, declaration: Declaration, header: str) -> str:
        name = python_name(declaration.name)
        if isinstance(declaration, Constant):
            return f"{name} = {self._value(declaration.value)}\n"
        if isinstance(declaration, Callback):
            types = [self._type(declaration.result), *(self._argument(a) for a in declaration.arguments)]
            return f"{name} = CFUNCTYPE({', '.join(types)})\n"
        docstring = f'    """``{declaration.name}`` of ``{header}``."""\n'
        if isinstance(declaration, Enum):
            self.numbers[declaration.name] = self.numbers[declaration.type]
            return self._enum(declaration, docstring)
        assert isinstance(declaration, Struct)
        fields = "".join(f"    {f.name}: {self._field(f)}\n" for f in declaration.fields)
        packed = "    _pack_ = 1\n" if declaration.packed else ""
        return f"class {name}(Structure):\n{docstring}\n{packed}{fields}"

    def _enum(self, enum: Enum, docstring: str) -> str:
        prefix = _common_word([name for name, _ in enum.values])
        lines, following = [], 0
        for name, tokens in enum.values:
            following = self._number(tokens) if tokens else following
            text = self._value(tokens) if tokens else str(following)
            lines.append(f"    {python_name('k' + name.removeprefix('k' + prefix))} = {text}\n")
            self.scope[python_name(name)] = following  # unscoped in C++, which may compute with it
            following += 1
        base = "IntFlag" if any("<<" in tokens for _, tokens in enum.values) else "IntEnum"
        return f"class {python_name(enum.name)}(enum.{base}):\n{docstring}\n{''.join(lines)}"

    def _prototypes(self, functions: list[Function]) -> str:
        lines = ["PROTOTYPES: Prototypes = {"]
        for function in functions:
            result = self._argument(Variable("", function.result, False, ()))
            arguments = f"[{', '.join(self._argument(a) for a in function.arguments)}]"
            line = f'    "{function.name}": ({result}, {arguments}),'
            if len(line) > _WIDTH:
                line = f'    "{function.name}": (\n        {result},\n        {arguments},\n    ),'
            lines.append(line)
        return "\n".join([*lines, "}"]) + "\n"

    def _field(self, variable: Variable) -> str:
        pointed = variable.type.removesuffix("*")
        if variable.size:
            element = self._type(variable.type)
            return f"Annotated[Array[{element}], {element} * {self._value(variable.size)}]"
        if variable.type == "char*":
            return "Bytes"
        if not variable.type.endswith("*"):
            text = self._type(variable.type)
            if isinstance(self.scope[text], type(ctypes.CFUNCTYPE(None))):
                return f"Annotated[Any, {text}]"
            return _FIELD_TYPES.get(text, text)
        if pointed in _NUMBER_POINTERS or (variable.is_const and python_name(pointed) in self.home):
            return f"Annotated[Any, POINTER({self._type(pointed)})]"
        return "Address"

    def _argument(self, variable: Variable) -> str:
        """An argument or a result: a struct that is read, an address, or a number."""
        if not variable.type.endswith("*"):
            return self._type(variable.type)
        pointed = python_name(variable.type.removesuffix("*"))
        if variable.type == "char*":
            return "c_char_p"
        return f"POINTER({pointed})" if variable.is_const and pointed in self.home else "c_void_p"

    def _type(self, name: str) -> str:
        if name in self.numbers:
            return self.numbers[name]
        python = python_name(name)
        if python not in self.home:
            raise SystemExit(f"type {name} is not known")
        return python

    def _value(self, tokens: tuple[str, ...]) -> str:
        """The Python text of a value: a number as C++ writes it, or else what the expression comes to."""
        if len(tokens) == 1 and tokens[0].startswith('"'):
            return tokens[0]
        number = self._number(tokens)
        literal = tokens[0].rstrip("uU") if len(tokens) == 1 else ""
        if literal.startswith("0x"):
            return "0x" + literal[2:].upper()
        if "<<" in tokens and number & (number - 1) == 0:
            return f"1 << {number.bit_length() - 1}"
        return str(number)

    def _number(self, tokens: tuple[str, ...]) -> int:
        text = " ".join(self._operand(token) for token in tokens)
        return int(eval(text.replace("/", "//"), {"sizeof": ctypes.sizeof, **self.scope}))

    def _operand(self, token: str) -> str:
        if token[0].isdigit():
            return re.sub(r"[uUlL]+$", "", token)
        return self.numbers.get(token) or ("sizeof" if token == "sizeof" else python_name(token))


def python_name(name: str) -> str:
    """``kMaxQueries`` is MAX_QUERIES; structs keep their names, those of C interfaces without their prefix."""
    if re.match(r"k[A-Z]", name):
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name[1:]).upper()
    return re.sub(r"^TflmZo(Sim(?=[A-Z]))?", "", name)


def _common_word(names: list[str]) -> str:
    """The words that all enumerators begin with, and that the enum's name says already."""
    words = [re.findall(r"[A-Z][^A-Z]*", name[1:]) for name in names]
    common = 0
    while len({tuple(w[: common + 1]) for w in words}) == 1 and all(len(w) > common + 1 for w in words):
        common += 1
    return "".join(words[0][:common])


def _import_order(name: str) -> tuple[int, list[str | int]]:
    """Constants, then classes, then functions and variables; numbers in names by their value."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _spaced(body: list[str]) -> str:
    """Join declarations as ruff formats them: two empty lines around a class."""
    text = ""
    after_class = False
    for part in body:
        is_class = part.startswith("class ")
        gap = 2 if is_class or after_class else 1 if part.startswith(("#", "PROTOTYPES")) or not text else 0
        gap = gap if not text.endswith("#\n") else 0
        text += "\n" * gap + part
        after_class = is_class
    return text


def generate() -> dict[str, str]:
    """Return the text of each module by its path from the root of the repository."""
    writer = Writer()
    return {module.path: writer.module(module) for module in MODULES}


def main() -> None:
    """Write the modules."""
    for path, text in generate().items():
        (ROOT / path).write_text(text)


if __name__ == "__main__":
    main()
