# SPDX-License-Identifier: Apache-2.0
"""Keras model to fully int8 ``.tflite``, and how much accuracy that costs.

TensorFlow is imported only when a function here is called. The TFLite converter runs in a process
of its own: it prints to the terminal from C++, leaves temporary folders behind, and on some models
it does not raise but crashes. None of that may reach the user.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tflm_zo.conversion.keras_support import (
    as_samples,
    first_line,
    import_tensorflow,
    input_shape,
    load_keras,
    predict_float,
    quiet,
)
from tflm_zo.errors import ZoError
from tflm_zo.tflm.evaluate import predict_values

_INPUT = "zo_input_{}"
_GRAPH_FILE = "graph.pb"
_OUTPUT_FILE = "output.txt"
_SAMPLES_FILE = "samples.npz"
_MODEL_FILE = "model.tflite"
_ERROR_FILE = "error.txt"
_LOG_FILE = "log.txt"
# Calibration of one layer alone only has to run, not to give good scales.
_ISOLATION_SAMPLES = 8
_MIN_ARENA_BYTES = 1 << 24
_FLOAT_TYPES = ("FLOAT32", "FLOAT16", "FLOAT64", "BFLOAT16", "COMPLEX64", "COMPLEX128")


@dataclass(frozen=True)
class AccuracyReport:
    """Float against int8 results of one model on ``samples`` labelled samples.

    ``metric`` is ``"accuracy"`` (fraction right, larger is better) or ``"mean squared error"``
    (in the model's real output units squared, smaller is better).
    """

    metric: str
    float_value: float
    int8_value: float
    samples: int

    def __str__(self) -> str:
        return f"{self.metric} on {self.samples} samples: float {self.float_value:.4f}, int8 {self.int8_value:.4f}"


def convert(keras_model: Any, representative_data: ArrayLike | Iterable[ArrayLike]) -> bytes:
    """Convert a Keras 3 model to a fully int8 ``.tflite`` with int8 input and output.

    Weights of convolutions get one scale per output channel; those of fully connected layers one
    per tensor, because TFLM releases still found on boards know no other. The batch dimension of
    the result is 1, other open dimensions get the size they have in ``representative_data``.

    Args:
        keras_model: a built ``keras.Model`` with one float input and one output, or the path of a
            ``.keras`` or ``.h5`` file (files written by Keras 2 included).
        representative_data: float array ``(n, ...)`` or an iterable of ``n >= 1`` samples of shape
            ``(...)``, in the units the model is fed; they set the ranges of the activations.

    Raises:
        ZoError: TensorFlow is missing; the model or the data does not fit; or something in the
            model cannot become int8 or does not run in TFLM: the message names the Keras layer.
    """
    tf, keras = import_tensorflow()
    model = load_keras(keras_model)
    expected = input_shape(model)
    samples = as_samples("representative_data", representative_data, expected, model.name)
    graph = _freeze(tf, model, [samples.shape[1:]], model.name)
    content, failure = _convert_graphs([(graph, [samples])])[0]
    failure = failure or _find_unquantized(content)
    if failure is None:
        return content
    layer = _layer_of(model, failure.names, graph.origin) or _isolate(tf, keras, model, samples)
    if layer is None:
        layer = f"model '{model.name}'"
    raise ZoError(f"{layer} cannot become int8: {failure.reason}; replace it, or do its work outside the model")


def accuracy_report(keras_model: Any, tflite_model: bytes, x: ArrayLike, y: ArrayLike) -> AccuracyReport:
    """Compare a Keras model with the int8 model made from it, the latter run in TFLM.

    With ``y`` integer of shape ``(n,)`` and more than one model output this is classification:
    the largest output wins. A single output behind a sigmoid says class 1 above 0.5.
    Otherwise ``y`` is the target itself, as large as the outputs, and the result is the mean
    squared error.

    Args:
        keras_model: as for :func:`convert`.
        tflite_model: content of the int8 ``.tflite``.
        x: float array ``(n, ...)``, in the units the Keras model is fed.
        y: labels ``(n,)`` or targets ``(n, ...)``.

    Raises:
        ZoError: the arrays do not fit the model or each other.
    """
    import_tensorflow()
    model = load_keras(keras_model)
    inputs = as_samples("x", x, input_shape(model), model.name)
    targets = np.asarray(y)
    if targets.ndim == 0 or len(targets) != len(inputs):
        raise ZoError(f"y has shape {targets.shape}, x has {len(inputs)} samples: give one y each")
    outputs = predict_float(model, inputs)
    quantized = predict_values(tflite_model, inputs).reshape(len(inputs), -1)
    if quantized.shape != outputs.shape:
        raise ZoError(
            f"the int8 model gives {quantized.shape[1]} outputs, '{model.name}' gives "
            f"{outputs.shape[1]}: it was not made from this Keras model"
        )
    values_per_sample = outputs.shape[1]
    integer = np.issubdtype(targets.dtype, np.integer)
    binary = values_per_sample == 1 and integer and _last_op(tflite_model) == "LOGISTIC"
    if binary or (targets.ndim == 1 and values_per_sample > 1):
        classes = max(2, values_per_sample)
        if not integer:
            raise ZoError(f"y has dtype {targets.dtype}: class labels must be integers")
        if targets.min() < 0 or targets.max() >= classes:
            raise ZoError(f"y has labels {targets.min()} to {targets.max()}, the model has classes 0 to {classes - 1}")

        def score(values: NDArray[np.float32]) -> float:
            found = values[:, 0] > 0.5 if binary else values.argmax(axis=1)
            return float(np.mean(found == targets.reshape(-1)))

        metric = "accuracy"
    else:
        if targets.size != outputs.size:
            raise ZoError(f"y has {targets.size // len(inputs)} values a sample, the model gives {values_per_sample}")
        wanted = targets.reshape(outputs.shape).astype(np.float64)

        def score(values: NDArray[np.float32]) -> float:
            return float(np.mean((values.astype(np.float64) - wanted) ** 2))

        metric = "mean squared error"
    return AccuracyReport(metric, score(outputs), score(quantized), len(inputs))


# Freezing and converting --------------------------------------------------------------------------


@dataclass(frozen=True)
class _FrozenGraph:
    """A Keras model as a TensorFlow graph of constants with fixed shapes."""

    content: bytes
    output: str
    origin: str  # Name of the node that computes the output; TFLite drops it.


@dataclass(frozen=True)
class _Failure:
    reason: str
    names: tuple[str, ...]  # Op and tensor names that tell the place, the most telling first.


def _freeze(tf: Any, function: Callable[..., Any], shapes: Sequence[tuple[int, ...]], name: str) -> _FrozenGraph:
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    single = len(shapes) == 1

    def call(*tensors: Any) -> Any:
        return function(tensors[0] if single else list(tensors), training=False)

    specs = [tf.TensorSpec((1, *shape), tf.float32, name=_INPUT.format(index)) for index, shape in enumerate(shapes)]
    try:
        with quiet():
            concrete = tf.function(call, autograph=False).get_concrete_function(*specs)
            frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    except Exception as error:  # Whatever the user's own layers raise when traced.
        raise ZoError(
            f"model '{name}' cannot be traced on one sample of shape {shapes[0]}: {first_line(error)}"
        ) from error
    if len(frozen.outputs) != 1:
        raise ZoError(f"model '{name}' has {len(frozen.outputs)} outputs: only models with one output can be converted")
    operation = frozen.outputs[0].op
    while operation.type == "Identity" and operation.inputs:
        operation = operation.inputs[0].op
    return _FrozenGraph(frozen.graph.as_graph_def().SerializeToString(), frozen.outputs[0].name, operation.name)


def _convert_graphs(
    jobs: Sequence[tuple[_FrozenGraph, Sequence[NDArray[np.float32]]]],
) -> list[tuple[bytes, _Failure | None]]:
    """Convert and try graphs in a child process, up to the first that fails."""
    results: list[tuple[bytes, _Failure | None]] = []
    with tempfile.TemporaryDirectory(prefix="tflm_zo_") as folder:
        root = Path(folder)
        for index, (graph, samples) in enumerate(jobs):
            place = root / str(index)
            place.mkdir()
            (place / _GRAPH_FILE).write_bytes(graph.content)
            (place / _OUTPUT_FILE).write_text(graph.output)
            np.savez(place / _SAMPLES_FILE, *samples)
        # The child sees the modules that this process sees, however its path was set up.
        command = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            "import importlib; "
            "importlib.import_module('tflm_zo.conversion.convert')._convert_folders(sys.argv[1:])"
        )
        folders = [str(root / str(index)) for index in range(len(jobs))]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TMPDIR": folder}
        with (root / _LOG_FILE).open("wb") as log:
            status = subprocess.run(
                [sys.executable, "-c", command, *folders],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                check=False,
            ).returncode
        for index in range(len(jobs)):
            place = root / str(index)
            if (place / _ERROR_FILE).exists():
                text = (place / _ERROR_FILE).read_text()
                content = b""
                if (place / _MODEL_FILE).exists():
                    content = (place / _MODEL_FILE).read_bytes()
                results.append((content, _explain(text, content)))
                break
            if not (place / _MODEL_FILE).exists():
                log_text = (root / _LOG_FILE).read_text(errors="replace")
                if status > 0:  # A Python error of the child itself, not a fault of the model.
                    last = (log_text.strip().splitlines() or ["no message"])[-1]
                    raise ZoError(f"the TensorFlow converter did not run: {first_line(last)}")
                reason = f"the TensorFlow converter crashes on it (signal {-status})"
                results.append((b"", _Failure(reason, ())))
                break
            results.append(((place / _MODEL_FILE).read_bytes(), None))
    return results


def _convert_folders(folders: Sequence[str]) -> None:
    """The child process: convert the graph in each folder, stop at the first that fails."""
    for folder in folders:
        place = Path(folder)
        with np.load(place / _SAMPLES_FILE) as archive:
            samples = [archive[f"arr_{index}"] for index in range(len(archive.files))]
        log = place.parent / _LOG_FILE
        start = log.stat().st_size
        try:
            content = _convert_graph((place / _GRAPH_FILE).read_bytes(), (place / _OUTPUT_FILE).read_text(), samples)
            partial = place / (_MODEL_FILE + ".part")
            partial.write_bytes(content)
            if _find_unquantized(content) is None:
                _try_in_tflm(content)
            partial.rename(place / _MODEL_FILE)
        except Exception as error:
            partial = place / (_MODEL_FILE + ".part")
            if partial.exists():
                partial.rename(place / _MODEL_FILE)
            sys.stderr.flush()
            with log.open("rb") as stream:
                stream.seek(start)
                printed = stream.read().decode(errors="replace")
            (place / _ERROR_FILE).write_text(f"{error}\n{printed}")
            return


def _convert_graph(graph: bytes, output: str, samples: list[NDArray[np.float32]]) -> bytes:
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef.FromString(graph)
    function = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(definition, name=""), []).prune(
        [_INPUT.format(index) + ":0" for index in range(len(samples))], output
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [part[index : index + 1] for part in samples] for index in range(len(samples[0]))
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    return bytes(converter.convert())


def _try_in_tflm(content: bytes) -> None:
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=max(_MIN_ARENA_BYTES, 10 * len(content)))
    interpreter.invoke()


# Finding the layer --------------------------------------------------------------------------------


def _operators(content: bytes) -> Iterator[tuple[str, bool, list[Any], list[str]]]:
    """Yield (op name, is custom, tensors, output names) of every operator, in order."""
    from tensorflow.lite.python import schema_py_generated as schema

    op_names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for subgraph in model.subgraphs:
        for operator in subgraph.operators or ():
            code = model.operatorCodes[operator.opcodeIndex]
            builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
            custom = code.customCode is not None
            name = code.customCode.decode() if custom else op_names.get(builtin, str(builtin))
            outputs = [subgraph.tensors[index] for index in operator.outputs]
            inputs = [subgraph.tensors[index] for index in operator.inputs if index >= 0]
            yield (
                name,
                custom,
                inputs + outputs,
                [tensor.name.decode() for tensor in outputs + inputs],
            )


def _last_op(content: bytes) -> str:
    return [name for name, _, _, _ in _operators(content)][-1]


def _find_unquantized(content: bytes) -> _Failure | None:
    """The first operator that is not int8, or whose shapes are not fixed; None if there is none."""
    from tensorflow.lite.python import schema_py_generated as schema

    type_names = {v: k for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
    border = None
    for name, custom, tensors, names in _operators(content):
        if custom:
            return _Failure(f"TFLite has no builtin op for {name}", tuple(names))
        for tensor in tensors:
            if type_names.get(tensor.type) in _FLOAT_TYPES:
                # Conversions to and from float surround the op that is the cause.
                if name in ("QUANTIZE", "DEQUANTIZE"):
                    border = border or _Failure("a float value is left", tuple(names))
                    break
                reason = f"TFLite has no int8 version of op {name}"
                return _Failure(reason, tuple(names))
            if tensor.shapeSignature is not None and any(d < 0 for d in tensor.shapeSignature):
                return _Failure(f"op {name} has a shape that is not fixed", tuple(names))
    return border


def _explain(text: str, content: bytes) -> _Failure:
    """Turn the output of the converter, or of TFLM on ``content``, into a reason and a place."""
    if content:
        missing = re.search(r"find op for builtin opcode '(\w+)'", text)
        failed = re.search(r"Node (\w+) \(number (\d+)", text)
        for index, (name, _, _, names) in enumerate(_operators(content)):
            if missing and name == missing[1]:
                return _Failure(f"TFLM has no op {name}", tuple(names))
            if failed and index == int(failed[2]):
                return _Failure(f"TFLM cannot run its op {name} in int8", tuple(names))
        return _Failure(f"TFLM cannot run the result: {first_line(text)}", ())
    # The compiler marks the place as loc("name") or as loc(fused["Op:", "name"]).
    places = [name for group in re.findall(r"loc\(([^\n]*)", text) for name in _quoted(group)]
    needs = re.search(r"'(?:tf|tfl)\.(\w+)' op is neither a custom op nor a flex op", text)
    flex = re.search(r"(?:Flex ops|Custom ops): ([\w, ]+)", text)
    quantize = re.search(r"not yet supported for op: '?(\w+)", text)
    if needs or flex:
        op = needs[1] if needs else flex[1].strip()  # type: ignore[index]
        return _Failure(f"TFLite has no builtin op for {op}", tuple(places))
    if quantize:
        return _Failure(f"TFLite has no int8 version of op {quantize[1]}", tuple(places))
    return _Failure(f"the TensorFlow converter says: {first_line(text)}", tuple(places))


def _quoted(text: str) -> list[str]:
    names = [name.split("@")[0] for name in re.findall(r'"([^"]+)"', text)]
    return [name for name in names if not name.endswith(":")]


def _layer_of(model: Any, names: Sequence[str], output_origin: str) -> str | None:
    """The Keras layer in whose name scope one of the op names lies, as a phrase for a message."""
    layers = {layer.name: layer for layer in model._flatten_layers(include_self=False)}
    for joined in names:
        # TFLite joins the names of fused ops by ';', and calls the model's output Identity.
        for name in [output_origin] if joined.startswith("Identity") else joined.split(";"):
            path: list[str] = []
            for part in name.split("/"):
                # A layer that is used twice gets a numbered scope the second time.
                match = part if part in layers else re.sub(r"_\d+$", "", part)
                if match in layers:
                    path.append(match)
            if path:
                return _phrase("/".join(path), layers[path[-1]])
    return None


def _phrase(name: str, operation: Any) -> str:
    return f"layer '{name}' ({type(operation).__name__})"


def _isolate(tf: Any, keras: Any, model: Any, samples: NDArray[np.float32], outer: str = "") -> str | None:
    """Convert each operation of a functional or sequential model alone; name the first that fails.

    Needed where the failure tells no place, as a crash does. None if no operation fails alone, or
    if the model is subclassed and so has no graph to take apart. ``outer`` is the path of ``model``.
    """
    graph_model = getattr(model, "_functional", None) or model
    by_depth = getattr(graph_model, "_nodes_by_depth", {})
    jobs = []
    tried = []
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if isinstance(node.operation, keras.layers.InputLayer):
                continue
            sources = list(node.input_tensors)
            try:
                with quiet():
                    before = keras.Model(graph_model.inputs, sources)
                    values = before(samples[:_ISOLATION_SAMPLES], training=False)
                    alone = keras.Model(sources, node.output_tensors)
                arrays = [
                    np.asarray(value, dtype=np.float32)
                    for value in (values if isinstance(values, (list, tuple)) else [values])
                ]
                shapes = [array.shape[1:] for array in arrays]
                graph = _freeze(tf, alone, shapes, node.operation.name)
            except Exception:  # This one cannot stand alone, the others may still tell.
                continue
            jobs.append((graph, arrays))
            tried.append(node.operation)
    results = _convert_graphs(jobs) if jobs else []
    # There is no result for the operations after the first that fails.
    for operation, (_, arrays), (content, failure) in zip(tried, jobs, results, strict=False):
        if failure is not None or _find_unquantized(content) is not None:
            inner = None
            name = outer + operation.name
            if isinstance(operation, keras.Model):
                inner = _isolate(tf, keras, operation, arrays[0], name + "/")
            return inner or _phrase(name, operation)
    return None
