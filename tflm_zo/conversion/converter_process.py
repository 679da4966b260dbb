# SPDX-License-Identifier: Apache-2.0
"""The TFLite converter in a process of its own.

It prints to the terminal from C++, leaves temporary folders behind, and on some models it does not raise but crashes.
None of that may reach the user.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tflm_zo.conversion.diagnosis import Failure, explain, find_unquantized
from tflm_zo.conversion.graph_edits import quantizable
from tflm_zo.conversion.keras_support import cause, plain_inference, quiet
from tflm_zo.conversion.layer_scopes import recorded_scopes
from tflm_zo.errors import ZoError
from tflm_zo.tflm import wheel

_INPUT = "zo_input_{}"
_GRAPH_FILE = "graph.pb"
_OUTPUT_FILE = "output.txt"
_SAMPLES_FILE = "samples.npz"
_MODEL_FILE = "model.tflite"
_ERROR_FILE = "error.txt"
_LOG_FILE = "log.txt"
_MIN_ARENA_BYTES = 1 << 24


@dataclass(frozen=True)
class FrozenGraph:
    """A Keras model as a TensorFlow graph of constants with fixed shapes."""

    content: bytes
    output: str
    origin: str  # Name of the node that computes the output; TFLite drops it.
    scopes: dict[str, str]  # Names of Keras layers by the scopes of their nodes.
    loops: bool = False  # Whether loops are left in it, which TFLite keeps, and cannot make int8.


def freeze(tf: Any, function: Callable[..., Any], shapes: Sequence[tuple[int, ...]], name: str) -> FrozenGraph:
    """Return ``function`` (of one input, or a list) for single samples of ``shapes``; raises :class:`ZoError` naming it
    ``name`` if it cannot be traced or has several outputs."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    single = len(shapes) == 1

    def call(*tensors: Any) -> Any:
        return function(tensors[0] if single else list(tensors), training=False)

    specs = [tf.TensorSpec((1, *shape), tf.float32, name=_INPUT.format(index)) for index, shape in enumerate(shapes)]
    try:
        with quiet(), recorded_scopes(tf, function) as scopes, plain_inference(function):
            concrete = tf.function(call, autograph=False).get_concrete_function(*specs)
            frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    except Exception as error:  # Whatever the user's own layers raise when traced.
        raise ZoError(f"model '{name}' cannot be traced on one sample of shape {shapes[0]}: {cause(error)}") from error
    if len(frozen.outputs) != 1:
        raise ZoError(f"model '{name}' has {len(frozen.outputs)} outputs: only models with one output can be converted")
    operation = frozen.outputs[0].op
    while operation.type == "Identity" and operation.inputs:
        operation = operation.inputs[0].op
    definition, output = quantizable(tf, frozen.graph.as_graph_def(), frozen.outputs[0].name)
    loops = any(node.op in ("While", "StatelessWhile") for node in definition.node)
    return FrozenGraph(definition.SerializeToString(), output, operation.name, scopes, loops)


def convert_graphs(
    jobs: Sequence[tuple[FrozenGraph, Sequence[NDArray[np.float32]]]],
) -> list[tuple[bytes, Failure | None]]:
    """Convert and try graphs in a child process, up to the first that fails."""
    results: list[tuple[bytes, Failure | None]] = []
    with tempfile.TemporaryDirectory(prefix="tflm_zo_") as folder:
        root = Path(folder)
        for index, (graph, samples) in enumerate(jobs):
            place = root / str(index)
            place.mkdir()
            (place / _GRAPH_FILE).write_bytes(graph.content)
            (place / _OUTPUT_FILE).write_text(graph.output, encoding="utf-8")
            np.savez(place / _SAMPLES_FILE, *samples)
        # The child sees the modules that this process sees, however its path was set up.
        command = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from {__name__} import convert_folders; convert_folders(sys.argv[1:])"
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
                text = (place / _ERROR_FILE).read_text(encoding="utf-8")
                content = b""
                if (place / _MODEL_FILE).exists():
                    content = (place / _MODEL_FILE).read_bytes()
                results.append((content, explain(text, content)))
                break
            if not (place / _MODEL_FILE).exists():
                log_text = (root / _LOG_FILE).read_text(encoding="utf-8", errors="replace")
                if status > 0:  # A Python error of the child itself, not a fault of the model.
                    last = (log_text.strip().splitlines() or ["no message"])[-1]
                    raise ZoError(f"the TensorFlow converter did not run: {cause(last)}")
                reason = f"the TensorFlow converter crashes on it (signal {-status})"
                results.append((b"", Failure(reason, ())))
                break
            results.append(((place / _MODEL_FILE).read_bytes(), None))
    return results


def convert_folders(folders: Sequence[str]) -> None:
    """The child process: convert the graph in each folder, stop at the first that fails."""
    for folder in folders:
        place = Path(folder)
        with np.load(place / _SAMPLES_FILE) as archive:
            samples = [archive[f"arr_{index}"] for index in range(len(archive.files))]
        log = place.parent / _LOG_FILE
        start = log.stat().st_size
        try:
            content = _convert_graph(
                (place / _GRAPH_FILE).read_bytes(), (place / _OUTPUT_FILE).read_text(encoding="utf-8"), samples
            )
            partial = place / (_MODEL_FILE + ".part")
            partial.write_bytes(content)
            if find_unquantized(content) is None:
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
            (place / _ERROR_FILE).write_text(f"{error}\n{printed}", encoding="utf-8")
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
    if not wheel.available():
        return
    interpreter = wheel.runtime().Interpreter.from_bytes(content, arena_size=max(_MIN_ARENA_BYTES, 10 * len(content)))
    interpreter.invoke()
