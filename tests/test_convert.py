# SPDX-License-Identifier: Apache-2.0
"""Conversion of real Keras models, and the errors that must name a layer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_once import BuildOnce

from tflm_zo.conversion.accuracy import accuracy_report
from tflm_zo.conversion.convert import convert
from tflm_zo.conversion.evaluate import evaluate_plain
from tflm_zo.conversion.keras_files import load_keras
from tflm_zo.conversion.keras_support import predict_float, quiet
from tflm_zo.errors import DataWarning, ZoError

pytest.importorskip("tensorflow", reason="converting needs TensorFlow (extra: convert)")
pytest.importorskip("keras", reason="converting needs Keras (extra: convert)")
schema = pytest.importorskip("tensorflow.lite.python.schema_py_generated")
runtime = pytest.importorskip("tflite_micro").runtime

import h5py  # noqa: E402
import keras  # noqa: E402 - a module, not what importorskip returns: mypy wants to know what is subclassed

DATA = Path(__file__).parents[2] / "shared" / "data"
RESNET = DATA / "mlperf_tiny" / "pretrainedResnet.h5"
CIFAR = DATA / "cifar10_jpeg_dev.npz"


@keras.saving.register_keras_serializable(package="test_convert")
class ErrorFunction(keras.layers.Layer):
    """An op that TFLite does not have."""

    def call(self, x: Any) -> Any:
        return keras.ops.erf(x)


class Subclassed(keras.Model):
    """A model without a graph of layers."""

    def __init__(self, bad: bool) -> None:
        super().__init__(name="subclassed")
        self.first = keras.layers.Dense(8, name="first")
        self.middle = ErrorFunction(name="middle") if bad else keras.layers.ReLU(name="middle")
        self.last = keras.layers.Dense(3, name="last")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.last(self.middle(self.first(x)))


def small_cnn(name: str = "small") -> Any:
    """Convolution, depthwise, batch normalization, a residual sum, pooling, dense, softmax."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    source = keras.Input((8, 8, 2))
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(source)
    y = layers.DepthwiseConv2D(3, padding="same")(x)
    y = layers.BatchNormalization()(y)
    x = layers.Add()([x, y])
    x = layers.AveragePooling2D(2)(layers.ReLU()(x))
    x = layers.Dense(5, activation="softmax")(layers.Flatten()(x))
    return keras.Model(source, x, name=name)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def tensors_and_ops(content: bytes) -> tuple[Any, list[str]]:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    assert len(model.subgraphs) == 1
    graph = model.subgraphs[0]
    return graph, [names[codes[operator.opcodeIndex]] for operator in graph.operators]


def run_tflm(content: bytes, x: np.ndarray) -> np.ndarray:
    """Real outputs of the int8 model, quantizing by the definition q = round(x / s) + z."""
    interpreter = runtime.Interpreter.from_bytes(content)
    source, sink = interpreter.get_input_details(0), interpreter.get_output_details(0)
    (s_in,), (z_in,) = (source["quantization_parameters"][k] for k in ("scales", "zero_points"))
    (s_out,), (z_out,) = (sink["quantization_parameters"][k] for k in ("scales", "zero_points"))
    rows = []
    for sample in x:
        code = np.clip(np.round(sample / s_in) + z_in, -128, 127).astype(np.int8)
        interpreter.set_input(code[None], 0)
        interpreter.invoke()
        rows.append((interpreter.get_output(0).astype(np.float64).ravel() - z_out) * s_out)
    return np.stack(rows)


@pytest.fixture(scope="module")
def cnn(build_once: BuildOnce) -> tuple[Any, bytes, np.ndarray]:
    model = small_cnn()
    x = normal(64, 8, 8, 2)
    folder = build_once("small_cnn", lambda folder: (folder / "int8.tflite").write_bytes(convert(model, x)))
    return model, (folder / "int8.tflite").read_bytes(), x


def test_result_is_int8_with_batch_one(cnn: tuple[Any, bytes, np.ndarray]) -> None:
    graph, ops = tensors_and_ops(cnn[1])
    types = {tensor.type for tensor in graph.tensors}
    assert types <= {schema.TensorType.INT8, schema.TensorType.INT32}
    for index in (*graph.inputs, *graph.outputs):
        assert graph.tensors[index].type == schema.TensorType.INT8
        assert graph.tensors[index].shape[0] == 1
    assert all(tensor.shapeSignature is None or min(tensor.shapeSignature, default=0) >= 0 for tensor in graph.tensors)
    assert "SHAPE" not in ops and "SOFTMAX" in ops


def test_scales_are_per_channel_for_convolutions_per_tensor_for_dense(
    cnn: tuple[Any, bytes, np.ndarray],
) -> None:
    graph, ops = tensors_and_ops(cnn[1])
    scales = {
        name: len(graph.tensors[operator.inputs[1]].quantization.scale)
        for name, operator in zip(ops, graph.operators, strict=True)
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    }
    assert scales == {"CONV_2D": 6, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 1}


def test_int8_outputs_follow_the_float_model(cnn: tuple[Any, bytes, np.ndarray]) -> None:
    model, content, x = cnn
    difference = np.abs(run_tflm(content, x) - predict_float(model, x))
    assert difference.max() < 0.05 and difference.mean() < 0.01


@pytest.mark.slow
def test_file_and_iterable_give_the_same_model(cnn: tuple[Any, bytes, np.ndarray], tmp_path: Path) -> None:
    model, content, x = cnn
    path = tmp_path / "small.keras"
    model.save(path)
    assert convert(path, (sample for sample in x)) == content


@pytest.mark.slow
def test_missing_channel_axis_of_length_one_is_added() -> None:
    layers = keras.layers
    model = keras.Sequential([keras.Input((6, 6, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2)])
    x = normal(5, 6, 6)
    report = accuracy_report(model, convert(model, x), x, np.zeros(5, np.int32))
    assert report.float_value == np.mean(predict_float(model, x[..., None]).argmax(axis=1) == 0)


@pytest.mark.slow
def test_nothing_is_printed_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="tiny").save(path)
    script = (
        "import numpy as np; from tflm_zo import convert;"
        "from tflm_zo.conversion.accuracy import accuracy_report;"
        "x = np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4);"
        f"content = convert({str(path)!r}, x);"
        f"accuracy_report({str(path)!r}, content, x, np.zeros((10, 2)))"
    )
    environment = {
        **os.environ,
        "TMPDIR": str(scratch),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not RESNET.exists(), reason="the shared real models are not here")
def test_old_h5_resnet_keeps_its_accuracy() -> None:
    with np.load(CIFAR) as archive:
        x, y = archive["x"].astype(np.float32), archive["y"]
    content = convert(RESNET, x[:100])
    report = accuracy_report(RESNET, content, x[1000:1200], y[1000:1200].astype(np.int64))
    assert report.metric == "accuracy" and report.samples == 200
    assert report.float_value > 0.7
    assert abs(report.int8_value - report.float_value) < 0.04
    # The reported int8 accuracy is the one TFLM gives when run independently of the report.
    again = run_tflm(content, x[1000:1200]).argmax(axis=1) == y[1000:1200]
    assert report.int8_value == pytest.approx(again.mean())


@pytest.mark.slow
def test_report_of_a_regression_is_mean_squared_error() -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)], name="linear")
    x = normal(50, 6)
    y = predict_float(model, x) + 2.0
    report = accuracy_report(model, convert(model, x), x, y)
    assert report.metric == "mean squared error"
    assert report.float_value == pytest.approx(4.0, rel=1e-4)
    assert report.int8_value == pytest.approx(4.0, rel=0.05)


@pytest.mark.slow
def test_report_of_a_sigmoid_is_accuracy() -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, activation="sigmoid")])
    x = normal(60, 6)
    y = (predict_float(model, x)[:, 0] > 0.5).astype(np.int32)
    y[:15] = 1 - y[:15]
    report = accuracy_report(model, convert(model, x), x, y)
    assert report.metric == "accuracy"
    assert report.float_value == pytest.approx(0.75)
    assert report.int8_value == pytest.approx(0.75, abs=0.05)


def close_to_float(model: Any, source: Any = None) -> str:
    """Convert ``model`` (or the file of it), compare what it gives; returns the names of its operators."""
    x = normal(30, *model.input_shape[1:])
    wanted = predict_float(model, x)
    content = convert(model if source is None else source, x)
    assert np.abs(run_tflm(content, x) - wanted).max() < 0.05 * np.ptp(wanted) + 0.01
    return " ".join(tensors_and_ops(content)[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LSTM", "GRU", "SimpleRNN"])
def test_recurrent_layers_are_unrolled(name: str) -> None:
    """By default they are loops. Where not all parts of a SPLIT are used, its scale would be a matter of chance, and
    REVERSE_V2 of sequences would get scales of its input and output that differ, which it does not know."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    recurrent = getattr(layers, name)(4, return_sequences=name == "LSTM")
    model = keras.Sequential([keras.Input((4, 3)), layers.Bidirectional(recurrent), layers.Flatten(), layers.Dense(2)])
    operators = close_to_float(model)
    assert not {"WHILE", "SPLIT", "REVERSE_V2"} & set(operators.split())
    assert not recurrent.unroll


@pytest.mark.slow
def test_mixed_precision_and_names_that_tensorflow_refuses() -> None:
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(5, dtype="mixed_float16", name="\u00b5 inner")], name="a b"
    )
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, name="my layer", dtype="mixed_float16"), inner, layers.Dense(2, name="_x")]
    )
    close_to_float(model)
    assert [layer.name for layer in model.layers] == ["my layer", "a b", "_x"]
    assert model.layers[0].compute_dtype == "float16"
    half = keras.Sequential([keras.Input((6,)), layers.Dense(2, name="half", dtype="float16")], name="one")
    with pytest.raises(ZoError, match=r"'half' keeps its weights in float16: .* float32 or mixed_float16"):
        convert(half, normal(4, 6))
    bad = keras.Sequential([keras.Input((6,)), layers.Dense(4), ErrorFunction(name="my curve")])
    with pytest.raises(ZoError, match=r"layer 'my curve' \(ErrorFunction\)"):
        convert(bad, normal(4, 6))


@pytest.mark.slow
def test_saved_model_directories(tmp_path: Path) -> None:
    model = small_cnn()
    with quiet():
        model.export(tmp_path / "exported", verbose=False)
    close_to_float(model, tmp_path / "exported")
    x, labels = normal(6, 8, 8, 2), np.zeros(6, np.int32)
    report = accuracy_report(tmp_path / "exported", convert(model, x), x, labels)
    assert report.float_value == np.mean(predict_float(model, x).argmax(axis=1) == 0)
    with quiet():
        sequential(keras.layers.LSTM(4), (5, 6)).export(tmp_path / "loop", verbose=False)
    with pytest.raises(ZoError, match="the model has a loop: build recurrent layers with unroll=True"):
        convert(tmp_path / "loop", normal(4, 5, 6))


def test_folders_that_are_no_saved_model(tmp_path: Path) -> None:
    import tensorflow as tf

    with pytest.raises(ZoError, match=r"is a folder, but no SavedModel: there is no saved_model\.pb"):
        convert(tmp_path, normal(4, 6))
    (tmp_path / "saved_model.pb").write_bytes(b"broken")
    with pytest.raises(ZoError, match="cannot load"):
        convert(tmp_path, normal(4, 6))
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "none"))
    with pytest.raises(ZoError, match=r"has 0 signatures .*signatures="):
        convert(tmp_path / "none", normal(4, 6))

    specs = [tf.TensorSpec((None, 6), name="a"), tf.TensorSpec((None, 6), name="b")]
    add = tf.function(lambda a, b: a + b, input_signature=specs)
    tf.saved_model.save(module, str(tmp_path / "two"), signatures=add)
    with pytest.raises(ZoError, match=r"has 2 inputs \(a, b\)"):
        convert(tmp_path / "two", normal(4, 6))


def as_keras_2(config: Any) -> Any:
    """A configuration with what Keras 2 wrote besides: arguments that Keras 3 does not know, and other words."""
    if isinstance(config, list):
        return [as_keras_2(part) for part in config]
    if not isinstance(config, dict):
        return config
    config = {key: as_keras_2(value) for key, value in config.items()}
    name, values = config.get("class_name"), config.get("config")
    if name == "DTypePolicy":
        return {"class_name": "Policy", "config": {"name": values["name"]}}
    if name in ("Functional", "Sequential"):
        config |= {"module": f"keras.src.engine.{name.lower()}", "registered_name": name}
    if name in ("DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose"):
        values["groups"] = 1
    if name == "SeparableConv2D":
        values |= {"kernel_initializer": {"class_name": "GlorotUniform", "config": {}}, "kernel_regularizer": None}
    if name == "GRU":
        values["time_major"] = False
    if name == "BatchNormalization":
        values["axis"] = [3]
    return config


def keras_2_layers() -> Any:
    layers = keras.layers
    source = keras.Input((8, 8, 2))
    x = layers.DepthwiseConv2D(3)(source)
    x = layers.BatchNormalization()(layers.SeparableConv2D(3, 3)(x))
    x = layers.Conv2DTranspose(2, 3, dtype="mixed_float16")(x)
    x = layers.GRU(4)(layers.Reshape((6, 12))(x))
    return keras.Model(source, layers.Dense(2)(x))


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_files_of_keras_2(tmp_path: Path, ending: str) -> None:
    model, path = keras_2_layers(), tmp_path / f"model.{ending}"
    model.save(path)
    if ending == "h5":
        with h5py.File(path, "r+") as archive:
            archive.attrs["model_config"] = json.dumps(as_keras_2(json.loads(archive.attrs["model_config"])))
    else:
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        parts["config.json"] = json.dumps(as_keras_2(json.loads(parts["config.json"]))).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
    before = path.read_bytes()
    with pytest.raises((TypeError, ValueError, AttributeError)):
        keras.models.load_model(path, compile=False)
    x = normal(5, 8, 8, 2)
    np.testing.assert_array_equal(predict_float(load_keras(path), x), predict_float(model, x))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_name": "TFOpLambda"}, r"Unknown layer: 'TFOpLambda'.*SavedModel directory"),
        ({"class_name": "Mine"}, r"Unknown layer: 'Mine'.*pass the model object"),
        (
            {"groups": 2},
            r"Unrecognized keyword arguments passed to Dense: \{'groups': 2\} \(if it was made with Keras 2",
        ),
    ],
)
def test_the_cause_is_told_whole(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "model.h5"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense_of_a_long_name" * 9)]).save(path)
    with h5py.File(path, "r+") as archive:
        config = json.loads(archive.attrs["model_config"])
        dense = config["config"]["layers"][-1]
        dense.update(change) if "class_name" in change else dense["config"].update(change)
        archive.attrs["model_config"] = json.dumps(config)
    with pytest.raises(ZoError, match=message) as caught:
        convert(path, normal(4, 4))
    assert "\n" not in str(caught.value)


def sequential(layer: Any, shape: tuple[int, ...] = (6,)) -> Any:
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input(shape), dense(8, name="before"), layer, dense(2)])


def functional_operation() -> Any:
    source = keras.Input((6,))
    x = keras.ops.sin(keras.layers.Dense(8)(source))
    return keras.Model(source, keras.layers.Dense(2)(x))


def nested() -> Any:
    block = keras.Sequential([keras.Input((8,)), ErrorFunction(name="deep")], name="block")
    return sequential(block)


@keras.saving.register_keras_serializable(package="test_convert")
class Looping(keras.layers.Layer):
    """A loop of its own, which TFLite keeps."""

    def call(self, x: Any) -> Any:
        return keras.ops.while_loop(lambda i, _: i < 4, lambda i, x: (i + 1, x / 2 + 1), (0, x))[1]


def loop_inside() -> Any:
    block = keras.Sequential([keras.Input((8,)), Looping(name="memory")], name="block")
    return sequential(block)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: sequential(ErrorFunction(name="curve")), r"'curve' \(ErrorFunction\).*Erf"),
        (
            lambda: sequential(keras.layers.Activation("gelu", name="smooth")),
            r"'smooth' \(Activation\).*TFLM has no op GELU",
        ),
        (
            lambda: sequential(keras.layers.Activation("softplus", name="plus")),
            r"'plus' \(Activation\).*TFLM cannot run its op EXP",
        ),
        (functional_operation, r"'sin\w*' \(Sin\).*no int8 version of op SIN"),
        (nested, r"'block/deep' \(ErrorFunction\)"),
        (loop_inside, r"'block/memory' \(Looping\).*unroll=True"),
    ],
    ids=["no-op", "not-in-tflm", "not-int8-in-tflm", "operation", "nested", "loop"],
)
def test_what_cannot_become_int8_names_the_layer(
    build: Any, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = build()
    x = normal(4, *model.input_shape[1:])
    with pytest.raises(ZoError, match=named) as caught:
        convert(model, x)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_subclassed_model() -> None:
    x = normal(8, 6)
    good = Subclassed(bad=False)
    good(x)
    assert np.abs(run_tflm(convert(good, x), x) - predict_float(good, x)).max() < 0.1
    bad = Subclassed(bad=True)
    bad(x)
    with pytest.raises(ZoError, match=r"layer 'middle' \(ErrorFunction\)"):
        convert(bad, x)
    with pytest.raises(ZoError, match="'subclassed' has no weights yet"):
        convert(Subclassed(bad=False), x)


def test_unsuitable_models(tmp_path: Path) -> None:
    a, b = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    two_in = keras.Model([a, b], keras.layers.Add()([a, b]), name="pair")
    with pytest.raises(ZoError, match=r"'pair' has 2 inputs \('left', 'right'\)"):
        convert(two_in, np.ones((2, 4), np.float32))
    dense = keras.layers.Dense
    two_out = keras.Model(a, [dense(2)(a), dense(3)(a)], name="fork")
    with pytest.raises(ZoError, match="'fork' has 2 outputs"):
        convert(two_out, np.ones((2, 4), np.float32))
    words = keras.Input((4,), dtype="int32", name="words")
    embedding = keras.Model(words, keras.layers.Embedding(9, 2)(words), name="text")
    with pytest.raises(ZoError, match="'words' of model 'text' has dtype int32"):
        convert(embedding, np.ones((2, 4), np.float32))
    with pytest.raises(ZoError, match="expected a Keras 3 model"):
        convert(3, np.ones((2, 4), np.float32))
    with pytest.raises(ZoError, match="no such file"):
        convert(tmp_path / "missing.keras", np.ones((2, 4), np.float32))
    with pytest.raises(ZoError, match=r"save the model as \.keras or \.h5"):
        convert(tmp_path / "model.pb", np.ones((2, 4), np.float32))
    for name in ("broken.keras", "broken.h5"):
        (tmp_path / name).write_bytes(b"not a model")
        with pytest.raises(ZoError, match=f"cannot load .*{name}"):
            convert(tmp_path / name, np.ones((2, 4), np.float32))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.ones((3, 9, 8, 2)), r"samples of shape \(9, 8, 2\), model 'small' takes \(8, 8, 2\)"),
        (np.ones((0, 8, 8, 2)), "at least one sample"),
        (np.full((3, 8, 8, 2), np.nan), "NaN or infinite"),
        ([np.ones((8, 8, 2)), np.ones((8, 7, 2))], "samples of one shape"),
        (5.0, "got float"),
        ("rep.npz", "got str"),
    ],
)
def test_unsuitable_data(data: Any, message: str) -> None:
    with pytest.raises(ZoError, match=message):
        convert(small_cnn(), data)


def test_the_report_measures_as_eval_does(cnn: tuple[Any, bytes, np.ndarray]) -> None:
    """Whatever form the labels have."""
    model, content, x = cnn
    y = np.arange(len(x)) % 5
    for labels in (y, y[:, None], y.astype(np.float32), np.eye(5)[y], np.array(list("abcde"))[y]):
        report = accuracy_report(model, content, x, labels)
        assert {report.metric: report.int8_value} == evaluate_plain(content, x, y)
    soft = np.random.default_rng(0).dirichlet(np.ones(5), len(x))
    report = accuracy_report(model, content, x, soft)
    assert {report.metric.replace(" ", "_"): report.int8_value} == evaluate_plain(content, x, soft)


def test_constant_representative_data_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Stop

    monkeypatch.setattr("tflm_zo.conversion.convert.freeze", stop)
    with pytest.warns(DataWarning, match="all 4 samples of representative_data are the same"), pytest.raises(Stop):
        convert(small_cnn(), np.ones((4, 8, 8, 2), np.float32))


def test_unsuitable_labels(cnn: tuple[Any, bytes, np.ndarray]) -> None:
    model, content, x = cnn
    with pytest.raises(ZoError, match=r"y\[1\] is class 5, but the model has 5 classes, 0 to 4"):
        accuracy_report(model, content, x[:2], np.array([0, 5]))
    with pytest.raises(ZoError, match="y has dtype float64: give integer class indices"):
        accuracy_report(model, content, x[:2], np.array([0.0, 1.5]))
    with pytest.raises(ZoError, match="give one y each"):
        accuracy_report(model, content, x[:2], np.array([0]))
    with pytest.raises(ZoError, match="y has 3 values a sample, the model's output 5"):
        accuracy_report(model, content, x[:2], np.zeros((2, 3)))


def test_missing_tensorflow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ZoError, match=r"pip install tflm-zo\[convert\]"):
        convert("model.keras", np.ones((1, 4)))
