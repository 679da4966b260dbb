# SPDX-License-Identifier: Apache-2.0
"""What layers are called: names in the file, in Keras, by number and by kind, everywhere the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from click.testing import CliRunner

from tflm_zo import Trainer, ZoError, bake, patch
from tflm_zo.cli.main import main
from tflm_zo.model.file import load_model
from tflm_zo.model.graph import main_graph
from tflm_zo.model.layer_names import label_layers
from tflm_zo.model.layers import Layer, trainable_layers
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.inspection import inspect
from tflm_zo.training.recipe import layer_methods

X, Y = small_models.separable_samples(20, seed=1)


def layers_of(model: bytes) -> list[Layer]:
    return trainable_layers(load_model(model))


def names_of(model: bytes) -> list[str]:
    return [layer.name for layer in layers_of(model)]


# -- names out of tensors ----------------------------------------------------------------------------------

# Tensors of the weights and of the output of the layers "stem", "spread" (depthwise) and "dense", and the names shown.
SCHEMES: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "Keras 2": (
        [
            ("model/conv2d/Conv2D", "model/conv2d/Relu;model/conv2d/Conv2D1"),
            ("model/dw/depthwise;model/bn/FusedBatchNormV3", "model/dw/depthwise1"),
            ("model/dense_1/MatMul", "model/dense_1/MatMul;model/dense_1/BiasAdd"),
        ],
        ["conv2d", "dw", "dense_1"],
    ),
    "Keras 2, a second model": (
        [
            ("model_1/conv2d_1/Conv2D", "model_1/conv2d_1/Relu"),
            ("model_1/depthwise_conv2d_1/depthwise", "model_1/depthwise_conv2d_1/Relu"),
            ("model_1/dense_1/MatMul", "model_1/dense_1/BiasAdd"),
        ],
        ["conv2d_1", "depthwise_conv2d_1", "dense_1"],
    ),
    "Keras 2, a later model": (
        [
            ("sequential_9/a/MatMul", "sequential_9/dense_7/Relu"),
            ("sequential_9/dense_8/MatMul", "sequential_9/dense_8/Relu"),
            ("sequential_9/dense_9/MatMul", "sequential_9/dense_9/BiasAdd"),
        ],
        ["a", "dense_8", "dense_9"],
    ),
    "Keras 3": (
        [
            ("functional_1/conv2d_1/convolution", "functional_1/re_lu_1/Relu;functional_1/conv2d_1/convolution"),
            ("functional_1/conv2d_1_2/depthwise", "functional_1/conv2d_1_2/depthwise1"),
            ("functional_1/dense_1/MatMul", "functional_1/dense_1/BiasAdd"),
        ],
        ["conv2d", "conv2d_1", "dense"],
    ),
    "Keras 3, nested": (
        [
            ("functional_1/core_1/conv2d_1/convolution", "functional_1/core_1/conv2d_1/Relu"),
            ("functional_1/core_1/conv2d_1_2/depthwise", "functional_1/core_1/conv2d_1_2/Relu"),
            ("functional_1/conv2d_1/MatMul", "functional_1/conv2d_1/BiasAdd"),
        ],
        ["conv2d", "conv2d_1", "conv2d#2"],
    ),
    "constants without a name": (
        [
            ("tfl.pseudo_qconst5", "functional_1/conv2d_1/convolution;functional_1/conv2d_1/Squeeze"),
            ("arith.constant3", "arith.constant4;model/dw/depthwise"),
            ("tfl.pseudo_qconst1", "StatefulPartitionedCall_1:0"),
        ],
        ["conv2d", "dw", "dense:1"],
    ),
    "nothing but numbers and calls": (
        [("unknown_0", "17"), ("std.constant", "PartitionedCall:0"), ("23", "Identity")],
        ["conv2d:1", "depthwise_conv2d:1", "dense:1"],
    ),
    "nodes of nodes": (
        [
            ("model/conv1d_30/Conv1D/Conv2D", "model/conv1d_30/Conv1D/Squeeze"),
            ("model/separable_conv2d/separable_conv2d/depthwise", "model/separable_conv2d/separable_conv2d/depthwise1"),
            ("model/gru/cell/MatMul_1/ReadVariableOp/transpose", "model/gru/cell/BiasAdd_1"),
        ],
        ["conv1d_30", "separable_conv2d", "cell"],
    ),
    "the same name thrice": (
        [("a/x/Conv2D", "a/x"), ("b/x/depthwise", "b/x"), ("c/x/MatMul", "c/x")],
        ["x", "x#2", "x#2#3"],
    ),
    "no tensor has a name": ([("", "")] * 3, ["conv2d:1", "depthwise_conv2d:1", "dense:1"]),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_names_out_of_tensors(scheme: str, small: bytes) -> None:
    tensors, shown = SCHEMES[scheme]
    own = (("stem/Conv2D", "stem/output"), ("spread/depthwise", "spread/output"), ("dense/MatMul", "dense/output"))
    graph = main_graph(load_model(small))
    layers = [op for op in graph.operators if len(op.inputs) > 1 and graph.tensors[op.inputs[1]].type == "INT8"]
    assert [graph.tensors[op.inputs[1]].name for op in layers] == [weights for weights, _ in own]
    names = {old: new for pair, wanted in zip(own, tensors, strict=True) for old, new in zip(pair, wanted, strict=True)}
    model = small_models.renamed(small, names)
    assert names_of(model) == shown
    # Patched and baked, with an adapter in front, all are called the same.
    patched = patch(model, "all", adapter=True)
    assert [label.name for label in read_patched(patched).labels] == ["adapter", *shown]
    assert names_of(bake(patched, {})) == ["adapter", *shown]


def test_names_of_strangers_are_unambiguous(shared_data: Path) -> None:
    for path in sorted((shared_data / "strangers").glob("**/*.tflite")):
        labels = list(label_layers(main_graph(load_model(path.read_bytes()))).values())
        assert len({label.handle for label in labels}) == len({label.number for label in labels}) == len(labels)
        for row in inspect(path.read_bytes()).layers:
            assert row.name and not row.name.startswith(("tfl.", "arith.", "std.", "unknown")), path.name


@pytest.mark.slow
def test_keras_layers_keep_their_names() -> None:
    """Of a converted Keras model the layers are called as in Keras; a grouped convolution leaves no name."""
    pytest.importorskip("tensorflow", reason="converting needs TensorFlow (extra: convert)")
    import keras

    from tflm_zo import convert

    layers = keras.layers
    keras.utils.clear_session()
    x = inputs = layers.Input((10, 10, 4))
    x = layers.Conv2D(4, 3, activation="relu")(x)
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3)(x))
    x = layers.ReLU()(layers.Conv2D(8, 1)(x))
    x = layers.Conv2D(8, 1, groups=2)(layers.SeparableConv2D(8, 3)(x))
    x = layers.Dense(6, activation="relu")(layers.Flatten()(x))
    x = layers.Dense(6, name="mine")(layers.Dense(6, activation="relu")(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    content = convert(model, np.random.default_rng(0).random((8, 10, 10, 4)).astype(np.float32))
    assert names_of(content) == [
        "conv2d", "depthwise_conv2d", "conv2d_1", "separable_conv2d", "separable_conv2d#2", "conv2d:4",
        "dense", "dense_1", "mine", "dense_2",
    ]  # fmt: skip


# -- naming a layer ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack() -> bytes:
    """Convolutions at operators 0, 1, 2, pooling, a reshape, and the head at 5."""
    return small_models.stack_model([4, 4, 4])


@pytest.mark.parametrize(
    ("reference", "layers"),
    [
        ("conv1", ["conv1"]),
        ("1", ["conv1"]),
        ("conv2d:2", ["conv1"]),
        ("Conv2D:02", ["conv1"]),
        ("CONV_2D:2", ["conv1"]),
        ("conv*", ["conv0", "conv1", "conv2"]),
        ("conv1/Conv2D", ["conv1"]),
        ("dense:1", ["dense"]),
        ("FULLY_CONNECTED:1,0", ["conv0", "dense"]),
        ("fully_connected:1, conv2d:3", ["conv2", "dense"]),
        ("5", ["dense"]),
    ],
)
@pytest.mark.parametrize("adapter", [False, True])
def test_a_layer_is_named_in_many_ways(stack: bytes, reference: str, layers: list[str], adapter: bool) -> None:
    patched = read_patched(patch(stack, reference, adapter=adapter))
    assert [label.name for label in patched.labels if label.name != "adapter"] == layers
    biases = read_patched(patch(stack, ",".join(f"{part}/bias" for part in reference.split(",")), adapter=adapter))
    assert [p.name for p in biases.parameters if p.layer in layers and p.in_model] == [f"{n}/bias" for n in layers]
    # The same reference in a training of all layers, whatever has been put in front.
    methods = layer_methods(
        read_patched(patch(stack, "all", adapter=adapter)),
        Hyperparameters(method={part.strip(): "frozen" for part in reference.split(",")}),
    )
    assert [name for name, method in methods.items() if method == "frozen"] == layers


@pytest.mark.parametrize(
    "reference", ["3", "4", "99", "conv2d:0", "conv2d:4", "depthwise:1", "conv2d:", "pool:1", "#1"]
)
def test_what_names_no_layer_is_told_the_layers(stack: bytes, reference: str) -> None:
    with pytest.raises(ZoError, match="matches no layer") as caught:
        patch(stack, reference)
    assert repr(reference) in str(caught.value)
    assert "conv0 (0), conv1 (1), conv2 (2), dense (5)" in str(caught.value)
    with pytest.raises(ZoError, match="not trained") as caught:
        layer_methods(read_patched(patch(stack, "1,5")), Hyperparameters(method={reference: "frozen"}))
    assert "conv1 (1), dense (5)" in str(caught.value)


def test_the_scope_in_the_file_is_a_name_too_if_nothing_else_is_called_so(small: bytes) -> None:
    names = {
        "stem/Conv2D": "functional_1/conv2d_1/convolution",
        "spread/depthwise": "functional_1/conv2d_1_2/depthwise",
        "dense/MatMul": "functional_1/dense_1/MatMul",
    }
    model = small_models.renamed(small, names)
    assert [label.name for label in read_patched(patch(model, "conv2d_1")).labels] == ["conv2d_1"]
    assert [label.name for label in read_patched(patch(model, "conv2d_1_2")).labels] == ["conv2d_1"]
    assert [label.name for label in read_patched(patch(model, "dense_1")).labels] == ["dense"]


@pytest.mark.parametrize(
    "hyper",
    [
        {"method": {"1": "nodes", "dense:1": "exact"}, "node_sigma": {"conv2d:2": 2}, "node_lr": {"1": 0.1}},
        {"method": {"conv1": "weights"}, "sigma": {"1": 2}, "lr": {"conv2d:2": 0.01}, "keep": {"1": 0.5}},
    ],
)
def test_hyperparameters_by_layer(stack: bytes, hyper: dict[str, Any]) -> None:
    """Any way to name a layer ends in the same weights."""
    named = {
        key: {{"1": "conv1", "conv2d:2": "conv1", "dense:1": "dense"}.get(k, k): v for k, v in value.items()}
        for key, value in hyper.items()
    }
    baked = []
    for settings in (hyper, named):
        trainer = Trainer(patch(stack, "conv1,dense"), seed=1)
        trainer.fit(X, Y, epochs=1, holdout=0.0, verbose=False, **settings)
        baked.append(trainer.bake())
    assert baked[0] == baked[1] != stack


def test_commands_and_config_files(stack: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(stack)
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    (tmp_path / "c.json").write_text(json.dumps({"method": {"conv2d:2": "weights"}}))
    runner = CliRunner()

    def run(*arguments: str) -> dict[str, Any]:
        done = runner.invoke(main, [*arguments, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        result: dict[str, Any] = json.loads(done.output.splitlines()[-1])
        return result

    model, zo, data = (str(tmp_path / name) for name in ("m.tflite", "z.tflite", "d.npz"))
    assert run("patch", model, "--trainable", "conv2d:2,5", "-o", zo)["trainable"] == ["conv1", "dense"]
    shared = ["train", zo, "--data", data, "--epochs", "1", "--holdout", "0", "--quiet", "--sigma", "1"]
    states = []
    for number, options in enumerate((["--method", "1=weights"], ["--config", str(tmp_path / "c.json")])):
        state = tmp_path / f"{number}.state"
        run(*shared, *options, "-o", str(state))
        trainer = Trainer(zo)
        trainer.load(state)
        states.append(trainer.bake())
    assert states[0] == states[1]


# -- grouped convolutions ----------------------------------------------------------------------------------


def test_a_grouped_convolution_is_trained_by_its_weights(shared_data: Path) -> None:
    model = (shared_data / "strangers" / "made" / "grouped_conv.tflite").read_bytes()
    patched = patch(model, "all", "cross-entropy")
    assert layer_methods(read_patched(patched), Hyperparameters()) == {"conv2d_23": "weights", "dense_3": "exact"}
    rng = np.random.default_rng(0)
    x, y = rng.integers(-128, 128, (8, 16, 16, 4)).astype(np.int8), rng.integers(0, 3, 8)
    trained = []
    for engine in ("tflm", "simulator"):
        trainer = Trainer(patched, seed=1, engine=engine)
        trainer.fit(x, y, epochs=1, holdout=0.0, verbose=False)
        trained.append(trainer.bake())
    assert trained[0] == trained[1] != model
