# SPDX-License-Identifier: Apache-2.0
"""Models for TFLM's Arduino libraries: the host's codes, or refused.

With TFLM_ZO_ARDUINO_LIBS naming those libraries (test_export.py), and in each of them a library for this machine,
lib/x86_64/libtensorflow-microlite.a (micro_app/tflm/README.md), exported models run in them.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_models
from operator_models import Builder, conv_options, int8, random_scales
from test_export import DEFINITIONS, REPOSITORY, arduino_libraries, include_options, library_name

from tflm_zo.board.arduino import export_sketch
from tflm_zo.board.double_multipliers import double_multipliers_differ
from tflm_zo.board.library_model import library_model
from tflm_zo.board.old_reductions import mean_weights, reduction_differs
from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model, save_model, schema
from tflm_zo.model.graph import Graph, Operator, main_graph
from tflm_zo.ops.command import INITIALISE, LOSS, REPORT_DTYPE, make_command
from tflm_zo.ops.names import PREFIX
from tflm_zo.patching.patch import patch
from tflm_zo.tflm.interpreter import Interpreter
from tflm_zo.training.trainer import Trainer

MODELS: dict[str, Callable[[], bytes]] = {
    "dense": small_models.dense_model,
    "dense without bias": lambda: small_models.dense_model(bias=False),
    "one scale": lambda: small_models.dense_model(per_channel=False),
    "convolutions": small_models.small_model,
    "convolutions without bias": lambda: small_models.small_model(bias=False),
    "two dense layers": lambda: small_models.residual_model(hidden=8),
    "mean": small_models.mean_model,
    "mean that keeps dimensions": lambda: small_models.mean_model(keep_dims=True),
    "float ends": lambda: small_models.small_model(float_ends=True),
}


def names(model: bytes) -> list[str]:
    return [operator.name for operator in main_graph(load_model(model)).operators]


@pytest.mark.parametrize("library", ["chirale", "arduino-examples"])
@pytest.mark.parametrize("name", MODELS)
def test_equal_layers_give_the_host_codes(name: str, library: str) -> None:
    original = MODELS[name]()
    converted = library_model(original, library)
    before, after = Interpreter(original), Interpreter(converted.data)
    graph = main_graph(load_model(original))
    x = graph.tensors[graph.inputs[0]]
    rng = np.random.default_rng(0)
    for _ in range(40):
        sample = int8(rng, *x.shape) if x.type == "INT8" else rng.uniform(-1, 1, x.shape).astype(np.float32)
        np.testing.assert_array_equal(before.run(sample), after.run(sample))
    assert bool(converted.replaced) == (name != "one scale")
    if name.startswith("dense"):
        assert names(converted.data) == ["RESHAPE", "CONV_2D", "RESHAPE", "SOFTMAX"]
    if not converted.replaced:
        assert converted.data == original
    assert library_model(original, "tree").data == original


@pytest.mark.parametrize("trainable", ["head", "exact", "all"])
@pytest.mark.parametrize("name", ["dense", "convolutions", "two dense layers", "mean"])
def test_equal_layers_train_to_the_host_weights(name: str, trainable: str) -> None:
    model = patch(MODELS[name](), trainable)
    converted = library_model(model, "chirale")
    assert converted.replaced
    trainers = [Trainer(data, seed=3, engine="tflm") for data in (model, converted.data)]
    rng = np.random.default_rng(1)
    shape, classes = trainers[0].model.input_shape, trainers[0].model.loss.classes
    x, y = int8(rng, 24, *shape[1:]), rng.integers(0, classes, 24)
    start = trained(trainers[0])
    for trainer in trainers:
        trainer.fit(x, y, epochs=2, batch_size=4, verbose=False, holdout=0)
    assert trained(trainers[0]) == trained(trainers[1]) != start
    baked = [trainer.bake() for trainer in trainers]
    assert not [t.name for t in main_graph(load_model(baked[1])).tensors if t.name.startswith(PREFIX)]
    first, second = map(Interpreter, baked)
    for sample in x:
        np.testing.assert_array_equal(first.run(sample[None]), second.run(sample[None]))


def trained(trainer: Trainer) -> list[bytes]:
    return [np.asarray(values).tobytes() for values in trainer.weights.values()]


def test_a_sample_is_kept_in_one_shape() -> None:
    """A RESHAPE in front of the head must not double what is kept of a sample."""
    from tflm_zo.patching.frozen_prefix import split

    model = patch(small_models.small_model(), "head")
    before, after = split(model), split(library_model(model, "chirale").data)
    assert before is not None and after is not None
    assert before.kept_bytes == after.kept_bytes


# -- what is refused ---------------------------------------------------------------------------------------


def grouped() -> bytes:
    b = Builder()
    x, y = b.tensor((1, 4, 4, 4), 0.02), b.tensor((1, 4, 4, 6), 0.1)
    rng = np.random.default_rng(0)
    w = b.tensor((6, 3, 3, 2), random_scales(rng, 6), data=int8(rng, 6, 3, 3, 2))
    b.operator("CONV_2D", [x, w], y, conv_options(False, "SAME", (1, 1), (1, 1), "NONE"), "Conv2DOptions")
    return b.build([x], [y])


def reduced(name: str, axes: list[int], shape: tuple[int, ...], point: int) -> bytes:
    b = Builder()
    x = b.tensor((1, 5, 5, 4), 0.02, point)
    y = b.tensor(shape, 0.013 if name == "MEAN" else 0.5, point)
    index = b.tensor((len(axes),), 1.0, data=np.array(axes, np.int32), kind=schema.TensorType.INT32)
    options = schema.ReducerOptionsT()
    b.operator(name, [x, index], y, options, "ReducerOptions")
    return b.build([x], [y])


def shifted_weights() -> bytes:
    tree = load_model(small_models.dense_model(per_channel=False))
    weights = tree.subgraphs[0].tensors[int(tree.subgraphs[0].operators[0].inputs[1])]
    weights.quantization.zeroPoint = np.array([3], np.int64)
    return save_model(tree)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "groups": (grouped, r"layer .* \(CONV_2D\): in Chirale_TensorFLowLite its kernel knows no groups.*groups=1"),
    "axes": (lambda: reduced("MEAN", [1, 2, 3], (1,), -128), r"operator 0 \(MEAN\).*room for 2 axes"),
    "shifted mean": (lambda: reduced("MEAN", [1, 2], (1, 4), 7), r"operator 0 \(MEAN\).*rounds otherwise.*AveragePool"),
    "weights": (shifted_weights, r"\(FULLY_CONNECTED\).*zero point"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_layer_equals_is_refused(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(ZoError, match=message) as error:
        library_model(make(), "chirale")
    assert "\n" not in str(error.value)
    assert library_model(make(), "tree").replaced == ()


# -- kernels in other arithmetic ---------------------------------------------------------------------------


def scaled(model: bytes, *quantizations: tuple[float, int]) -> tuple[Graph, Operator]:
    """A model of one operator with other scales and zero points of its inputs and output."""
    graph = main_graph(load_model(model))
    operator = graph.operators[0]
    tensors = list(graph.tensors)
    for index, (scale, point) in zip((operator.inputs[0], operator.outputs[0]), quantizations, strict=True):
        tensors[index] = replace(
            tensors[index], scales=np.array([scale], np.float32), zero_points=np.array([point], np.int64)
        )
    return replace(graph, tensors=tuple(tensors)), operator


def test_a_mean_of_equal_quantization_is_cut_off_by_the_old_kernel() -> None:
    graph, operator = scaled(reduced("MEAN", [1, 2], (1, 4), 0), (0.02, 5), (0.02, 5))
    assert reduction_differs(graph, operator)


def test_most_means_have_an_equal_convolution() -> None:
    rng = np.random.default_rng(0)
    model = reduced("MEAN", [1, 2], (1, 4), -128)
    found = 0
    for _ in range(30):
        scale = float(rng.uniform(0.01, 0.1))
        graph, operator = scaled(model, (scale, -128), (scale * float(rng.uniform(0.3, 1)), -128))
        found += not reduction_differs(graph, operator) or mean_weights(graph, operator) is not None
    assert found >= 28


def test_a_subtraction_of_double_precision() -> None:
    def differs(*scales: float) -> bool:
        b = Builder()
        first, second, y = (b.tensor((1, 8), scale) for scale in scales)
        b.operator("SUB", [first, second], y, schema.SubOptionsT(), "SubOptions")
        graph = main_graph(load_model(b.build([first, second], [y])))
        return double_multipliers_differ(graph, graph.operators[0])

    assert differs(0.05, 0.07, 0.2)
    assert not differs(0.5, 0.25, 1.0)  # powers of 2 have the same multipliers in both


# -- in the libraries themselves ---------------------------------------------------------------------------


def archive(library: Path) -> Path:
    return library / "lib" / platform.machine() / "libtensorflow-microlite.a"


def built_libraries() -> list[Path]:
    return [path for path in arduino_libraries() if archive(path).is_file() and shutil.which("g++")]


@pytest.mark.skipif(not built_libraries(), reason="TFLM_ZO_ARDUINO_LIBS names no library that is built for here")
@pytest.mark.parametrize("name", [*MODELS, "pc", "fz_gestes", "keras_gap", "cookekieran_tinyml", "c_tflm_magic_wand"])
@pytest.mark.parametrize("library", built_libraries(), ids=lambda path: path.name)
def test_an_exported_model_runs_in_the_library(
    library: Path,
    name: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Outputs and losses are the host's, byte for byte."""
    if name in MODELS:
        original = MODELS[name]()
    else:
        folder = request.getfixturevalue("shared_data") / "strangers"
        original = next(folder.rglob(f"{name}.tflite")).read_bytes()
    model = patch(original, "head")
    export_sketch(model, tmp_path / "Sketch", tflm_library=library_name(library), force=True)
    objects = tmp_path_factory.getbasetemp() / f"objects-{library.name}"
    objects.mkdir(exist_ok=True)
    program = build(library, tmp_path / "Sketch", objects)
    count = 24
    inputs, expected = passes(model, count)
    (tmp_path / "in").write_bytes(inputs)
    run(program, tmp_path / "in", tmp_path / "out")
    assert without_addresses((tmp_path / "out").read_bytes(), count) == without_addresses(expected, count)


def passes(model: bytes, count: int) -> tuple[bytes, bytes]:
    """The bytes of all inputs of some passes, and of all outputs on the host."""
    graph = main_graph(load_model(model))
    sample, _, target = (graph.tensors[i] for i in graph.inputs)
    rng = np.random.default_rng(0)
    interpreter = Interpreter(model)
    given, made = [], []
    for number in range(count):
        x = int8(rng, *sample.shape) if sample.type == "INT8" else rng.uniform(-1, 1, sample.shape).astype(np.float32)
        y = np.zeros(target.shape, np.int8 if target.type == "INT8" else np.int32)
        for position, values in enumerate((x, make_command(INITIALISE if number == 0 else LOSS), y)):
            interpreter.set_input(values, position)
            given.append(values.tobytes())
        interpreter.invoke()
        made += [interpreter.get_output(i).tobytes() for i in range(len(graph.outputs))]
    return b"".join(given), b"".join(made)


def without_addresses(outputs: bytes, count: int) -> bytes:
    """The outputs of some passes; the report, which is the last, says where the ops' state lies."""
    made = np.frombuffer(outputs, np.uint8).reshape(count, -1).copy()
    fields = REPORT_DTYPE.fields
    assert fields is not None
    dtype, offset = fields["state_address"][:2]
    start = made.shape[1] - REPORT_DTYPE.itemsize + offset
    made[:, start : start + dtype.itemsize] = 0
    return made.tobytes()


def build(library: Path, sketch: Path, objects: Path) -> Path:
    """The program of one sketch; ``objects`` keeps what is the same in all sketches for a library."""
    # The board's own parts of the app are not needed, and their headers not there.
    options = [o for o in include_options(library, objects) if o not in DEFINITIONS]
    compiler = ["g++", "-std=gnu++14", "-O1", "-fno-exceptions", "-fno-rtti", *options, f"-I{sketch}/src/tflm_zo"]
    for source in (sketch / "src" / "tflm_zo").glob("*.cpp"):
        if not (objects / f"{source.stem}.o").exists():
            run(*compiler, "-c", source, "-o", objects / f"{source.stem}.o")
    program = sketch / "run"
    main = REPOSITORY / "tests/cpp/run_exported.cc"
    run(*compiler, f"-I{sketch}", main, sketch / "model.cpp", *objects.glob("*.o"), archive(library), "-o", program)
    return program


def run(*command: str | Path) -> None:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}\n{result.stderr[-2000:]}", pytrace=False)
