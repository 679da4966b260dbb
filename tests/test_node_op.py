# SPDX-License-Identifier: Apache-2.0
"""The node op inside TFLM: perturbed outputs, updates from losses and in closed form, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import small_models
from engine import Engine, command
from hypothesis import given, settings
from hypothesis import strategies as st
from node_reference import Ends, Layer, Node

from tflm_zo import patch
from tflm_zo.model.file import load_model, save_model
from tflm_zo.ops import compiled
from tflm_zo.ops.command import COMMAND_DTYPE
from tflm_zo.ops.names import PREFIX
from tflm_zo.ops.step import Exact, Group, GroupMode
from tflm_zo.training.masks import channel_mask

FIELDS = {name: np.zeros((), dtype=COMMAND_DTYPE[name])[()] for name in COMMAND_DTYPE.names or ()}
EVALUATE = reference.LOSS | reference.ACCUMULATE


class Graph:
    """A model file in plain terms."""

    def __init__(self, model: bytes) -> None:
        self.tree = load_model(model)
        self.tensors = self.tree.subgraphs[0].tensors
        self.operators = self.tree.subgraphs[0].operators

    def kind(self, operator: Any) -> str:
        code = self.tree.operatorCodes[operator.opcodeIndex].builtinCode
        return {v: k for k, v in vars(small_models.OPERATOR).items()}[code]

    def producer(self, tensor: int) -> Any:
        return next(o for o in self.operators if tensor in o.outputs)

    def of_layer(self, name: str) -> Any:
        """The operator whose weights are called so."""
        return next(o for o in self.operators if len(o.inputs) > 1 and self.name(o.inputs[1]).startswith(f"{name}/"))

    def name(self, tensor: int) -> str:
        return self.tensors[tensor].name.decode()

    def index(self, name: str) -> int:
        return next(i for i in range(len(self.tensors)) if self.name(i) == name)

    def scale(self, tensor: int) -> float:
        return float(self.tensors[tensor].quantization.scale[0])

    def zero_point(self, tensor: int) -> int:
        return int(self.tensors[tensor].quantization.zeroPoint[0])

    def constant(self, tensor: int, kind: type) -> np.ndarray:
        data = self.tree.buffers[self.tensors[tensor].buffer].data
        return np.frombuffer(bytes(data), kind).reshape(self.tensors[tensor].shape)

    def layer(self, name: str) -> Layer:
        operator = self.of_layer(name)
        x, w = (int(i) for i in operator.inputs[:2])
        kind = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "dense"}[self.kind(operator)]
        options = operator.builtinOptions
        dense = kind == "dense"
        return Layer(
            kind=kind,
            weights=self.constant(w, np.int8),
            stride=(1, 1) if dense else (options.strideH, options.strideW),
            dilation=(1, 1) if dense else (options.dilationHFactor, options.dilationWFactor),
            same=not dense and options.padding == small_models.schema.Padding.SAME,
            zero_point=self.zero_point(x),
            x_scale=self.scale(x),
            weight_scales=np.array(self.tensors[w].quantization.scale, dtype=np.float64),
            y_scale=self.scale(int(operator.outputs[0])),
        )

    def saturation(self, tensor: int) -> tuple[int, int]:
        """The codes at which what makes this tensor saturates."""
        activation = self.producer(tensor).builtinOptions.fusedActivationFunction
        low, high = small_models.ACTIVATION_RANGES[activation]
        codes = np.rint(np.array([low, high]) / self.scale(tensor)) + self.zero_point(tensor)
        first, last = np.clip(codes, -128, 127)
        return int(first), int(last)

    def pool(self, tensor: int) -> tuple[int, int]:
        """The window over which a tensor is averaged."""
        reader = next(o for o in self.operators if tensor in o.inputs)
        options = reader.builtinOptions
        return (options.filterHeight, options.filterWidth) if self.kind(reader) == "AVERAGE_POOL_2D" else (1, 1)


def ends(fields: dict[str, Any]) -> Ends:
    actions = int(fields["actions"])
    return Ends(bool(actions & reference.NODE_BEGIN), bool(actions & reference.NODE_APPLY))


class Twins:
    """A patched model in TFLM, whose head is "dense", and the references of its ops: both go through the same passes.

    mapped: for layers in closed form whose output is not what is pooled, the tensor that is.
    """

    def __init__(
        self, model: bytes, trainable: str = "all", *, accumulate: bool = False, mapped: dict[str, str] | None = None
    ) -> None:
        self.graph = Graph(model)
        self.engine = Engine(patch(model, trainable, accumulate=accumulate), preserve=True)
        self.op = self.engine.reference()
        parameters = {p.name: r for p, r in zip(self.engine.model.parameters, self.op.parameters, strict=True)}
        patched = Graph(self.engine.model.data)
        self.nodes, self.tensors, self.accumulators = [], [], []
        for node in self.engine.model.nodes:
            y = int(self.graph.of_layer(node.layer).outputs[0])
            if node.closed_form and mapped:
                y = self.graph.index(mapped[node.layer])
            low, high = self.graph.saturation(y)
            self.nodes.append(
                Node(
                    number=node.number,
                    layer=self.graph.layer(node.layer),
                    low=low,
                    high=high,
                    weights=parameters.get(f"{node.layer}/weights"),
                    bias=parameters.get(f"{node.layer}/bias"),
                    pool=self.graph.pool(y) if node.closed_form else None,
                    accumulates=accumulate,
                )
            )
            self.accumulators.append(patched.index(f"{PREFIX}accumulator/{node.number}") if accumulate else -1)
            self.tensors.append((int(self.graph.of_layer(node.layer).inputs[0]), y))
        self.head = self._head()

    def _head(self) -> reference.Head:
        layer = self.graph.layer("dense")
        bias = [int(i) for i in self.graph.of_layer("dense").inputs[2:] if i >= 0]
        return reference.Head(
            weights=layer.weights,
            bias=self.graph.constant(bias[0], np.int32) if bias else None,
            zero_point=layer.zero_point,
            accumulator_scales=(layer.x_scale * layer.weight_scales).astype(np.float32) * np.ones(3, np.float32),
            weight_factors=(layer.x_scale / layer.weight_scales).astype(np.float32) * np.ones(3, np.float32),
            trains_weights="dense/weights" in {p.name for p in self.engine.model.parameters},
        )

    def configure(self, number: int, sigma: int, block: int, rate: float, keep: float = 1.0) -> None:
        """Settings of a node; what of them is for perturbations does not matter to closed forms."""
        node, setting = self.nodes[number], channel_mask(keep, "")
        assert self.engine.state.configure_node(number, sigma, block, rate, setting)
        level = np.uint32(setting.level << 16).view(np.float32)
        node.sigma, node.block, node.rate = sigma, block, rate
        node.keep = float(level) if setting.kind else 1.0

    def map(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Input and output of a node's layer as the last pass left them; the output as a map."""
        x, y = (self.engine.tensor(index) for index in self.tensors[number])
        rows = y.shape[1:3] if y.ndim == 4 else (y.size // y.shape[-1], 1)
        return x, y.reshape(*rows, y.shape[-1])

    def run(self, x: np.ndarray, target: int, **fields: Any) -> np.float32:
        """One pass of both; weights, biases, the head and accumulators are the same after it. Returns the loss."""
        fields = FIELDS | {"magic": reference.MAGIC} | fields
        actions = int(fields["actions"])
        self.op.invoke(fields)
        if actions & reference.INITIALISE:
            self.head = self._head()
        loss = self.engine.loss(command(**fields), x=x, target=target)
        if actions & reference.NODE_UPDATE:
            self._update_from_losses(fields)
        if actions & reference.ACCUMULATE:
            self.op.accumulate(fields, loss)
        if actions & reference.LOSS:
            features = self.engine.tensor(int(self.graph.of_layer("dense").inputs[0])).reshape(-1)
            logits = self.head.logits(features)
            assert loss == reference.cross_entropy(logits, target)
            if actions & reference.HEAD:
                self._update_in_closed_form(fields, features, reference.cross_entropy_gradient(logits, target))
        self._assert_same()
        return loss

    def _update_from_losses(self, fields: dict[str, Any]) -> None:
        slopes = self.op.losses[: int(fields["update_queries"])]
        for node in self.nodes[int(fields["update_first"]) : int(fields["update_last"])]:
            if node.pool is None and node.sigma and node.rate:
                node.update_from_losses(
                    *self.map(node.number),
                    slopes,
                    fields["node_rate"],
                    int(fields["update_seed"]),
                    ends(fields),
                )

    def _update_in_closed_form(self, fields: dict[str, Any], features: np.ndarray, gradient: np.ndarray) -> None:
        scale = self.graph.layer("dense").x_scale
        to_features = self.head.feature_gradient(gradient, scale)
        seed = int(fields["head_seed"])
        if self.engine.model.exact_head:
            self.head.update(features, gradient, fields["head_rate"], seed)
        for node in self.nodes:
            if node.pool is not None and node.rate:
                node.update_from_features(*self.map(node.number), to_features, fields["node_rate"], seed, ends(fields))

    def _assert_same(self) -> None:
        wanted = {p.name: r.values for p, r in zip(self.engine.model.parameters, self.op.parameters, strict=True)}
        head = {"weights": self.head.weights, "bias": self.head.bias, "residual": self.head.residual}
        for parameter, got in zip(self.engine.model.parameters, self.engine.tensors(), strict=True):
            in_head = parameter.layer == "dense"
            want = head[parameter.name.removeprefix("dense/")] if in_head else wanted[parameter.name]
            assert want is not None
            np.testing.assert_array_equal(got, np.reshape(want, -1), err_msg=parameter.name)
        for node, index in zip(self.nodes, self.accumulators, strict=True):
            if index >= 0:
                np.testing.assert_array_equal(self.engine.tensor(index).reshape(-1), node.accumulator)


def samples(twins: Twins, count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(-128, 128, (count, *twins.engine.model.input_shape)).astype(np.int8)


# -- models ------------------------------------------------------------------------------------------------


@st.composite
def layer_models(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of :func:`small_models.layer_model`: any layer that TFLM runs, small enough to follow by hand."""
    kind = draw(st.sampled_from(["conv", "depthwise", "dense"]))
    model: dict[str, Any] = {
        "kind": kind,
        "activation": draw(st.sampled_from(["NONE", "RELU", "RELU6", "RELU_N1_TO_1"])),
        "margin": draw(st.sampled_from([-0.2, 0.0, 0.15])),
        "bias": draw(st.booleans()),
        "per_channel": draw(st.booleans()),
        "extreme": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }
    if kind == "dense":
        rows = draw(st.sampled_from([(), (), (3,)]))
        return model | {"input_shape": (*rows, draw(st.integers(1, 40))), "outputs": draw(st.sampled_from([1, 4, 33]))}
    same = draw(st.booleans())
    channels = draw(st.sampled_from([1, 2, 3]))
    outputs = (
        draw(st.sampled_from([1, 5, 33, 40])) if kind == "conv" else channels * draw(st.sampled_from([1, 2, 3, 11]))
    )
    sides: list[tuple[int, ...]] = []
    for _ in "yx":
        k, stride, dilation = (draw(st.integers(1, 3)) for _ in range(3))
        reach = (k - 1) * dilation + 1
        size = draw(st.integers(1, 7) if same else st.integers(reach, reach + 4))
        out = -(-size // stride) if same else (size - reach) // stride + 1
        pool = draw(st.sampled_from([d for d in range(1, out + 1) if out % d == 0]))
        sides.append((size, k, stride, dilation, pool))
    sizes, kernels, strides, dilations, pools = zip(*sides, strict=True)
    return model | {
        "input_shape": (*sizes, channels),
        "outputs": outputs,
        "kernel": kernels,
        "stride": strides,
        "dilation": dilations,
        "padding": "SAME" if same else "VALID",
        "pool": pools,
    }


# Every kind of layer, with what makes its geometry hard.
LAYERS: dict[str, dict[str, Any]] = {
    "conv": {"kind": "conv", "input_shape": (8, 6, 3), "outputs": 5, "kernel": (3, 2), "pool": (4, 2)},
    "conv, strides": {
        "kind": "conv",
        "input_shape": (9, 7, 2),
        "outputs": 4,
        "kernel": (2, 3),
        "stride": (3, 2),
        "activation": "RELU6",
        "margin": 0.1,
    },
    "conv, dilations": {
        "kind": "conv",
        "input_shape": (7, 6, 2),
        "outputs": 3,
        "kernel": (2, 3),
        "dilation": (3, 2),
        "padding": "VALID",
        "activation": "NONE",
        "margin": -0.2,
    },
    "conv, 40 channels": {
        "kind": "conv",
        "input_shape": (2, 4, 2),
        "outputs": 40,
        "activation": "RELU_N1_TO_1",
        "margin": 0.1,
        "per_channel": False,
        "pool": (2, 4),
    },
    "depthwise": {"kind": "depthwise", "input_shape": (6, 4, 3), "outputs": 3, "kernel": (3, 3), "extreme": True},
    "depthwise, multiplier": {
        "kind": "depthwise",
        "input_shape": (7, 8, 3),
        "outputs": 6,
        "kernel": (3, 2),
        "stride": (2, 1),
        "margin": 0.1,
        "pool": (2, 4),
    },
    "depthwise, dilations": {
        "kind": "depthwise",
        "input_shape": (8, 7, 2),
        "outputs": 6,
        "kernel": (3, 2),
        "dilation": (2, 3),
        "activation": "RELU6",
        "per_channel": False,
    },
    "dense": {"kind": "dense", "input_shape": (75,), "outputs": 35, "extreme": True},
    "dense, rows": {"kind": "dense", "input_shape": (4, 7), "outputs": 5, "activation": "NONE", "margin": -0.3},
}
CLOSED = [name for name in LAYERS if name != "dense, rows"]  # whose gradient has a closed form


@settings(max_examples=100, derandomize=True)
@given(layer_models())
def test_reference_knows_the_layer(kind: dict[str, Any]) -> None:
    """Its windows times the weights, rounded and cut off, are what TFLM computes, to one code."""
    model = small_models.layer_model(**kind)
    twins = Twins(model)
    node, layer = twins.nodes[0], twins.nodes[0].layer
    equation = "rcijo,ijo->rco" if layer.kind == "depthwise" else "rcijk,ijko->rco"
    for sample in samples(twins, 2):
        twins.run(sample, 0)
        x, y = twins.map(0)
        products = np.einsum(equation, layer.windows(x).astype(float), layer.by_position(layer.weights).astype(float))
        products += 0 if node.bias is None else node.bias.values
        wanted = products * layer.x_scale * layer.weight_scales / layer.y_scale
        zero_point = twins.graph.zero_point(twins.tensors[0][1])
        assert np.abs(np.clip(np.rint(wanted) + zero_point, node.low, node.high) - y).max() <= 1


# -- perturbed outputs -------------------------------------------------------------------------------------

blocks = st.sampled_from([0, 1, 2, 3, 1000])
keeps = st.sampled_from([0.1, 0.5, 0.8, 1.0])
seeds = st.sampled_from([7, 8]) | st.integers(0, 2**32 - 1)
queries = st.integers(0, 3) | st.just(reference.MAX_QUERIES - 1)


@settings(max_examples=100, derandomize=True)
@given(kind=layer_models(), sigma=st.sampled_from([1, 2, 5, 40, 127]), block=blocks, keep=keeps, data=st.data())
def test_perturbed_outputs(kind: dict[str, Any], sigma: int, block: int, keep: float, data: st.DataObject) -> None:
    """Both signs of several directions; signs of blocks, saturated outputs and masked channels that stay."""
    twins = Twins(small_models.layer_model(**kind))
    twins.configure(0, sigma, block, 0.0, keep)
    for sample in samples(twins, 2):
        twins.run(sample, 0)
        _, clean = twins.map(0)
        seed, query = data.draw(seeds), data.draw(queries)
        for sign in (1, -1):
            twins.run(sample, 0, actions=EVALUATE, sign=sign, seed=seed, query=query, node_last=1)
            _, perturbed = twins.map(0)
            np.testing.assert_array_equal(perturbed, twins.nodes[0].perturbed(clean, sign, seed, query))
        for fields in ({"node_first": 1, "node_last": 1}, {"sign": 0, "node_last": 1}):
            twins.run(sample, 0, **({"actions": EVALUATE, "sign": 1, "seed": seed} | fields))
            np.testing.assert_array_equal(twins.map(0)[1], clean)


@pytest.mark.parametrize("name", LAYERS)
def test_a_perturbation_moves_what_it_should(name: str) -> None:
    """By sigma, or to the end of the activation's range: all outputs within it, and none at its ends."""
    twins = Twins(small_models.layer_model(**LAYERS[name]))
    twins.configure(0, 5, 1, 0.0)
    node = twins.nodes[0]
    inside = saturated = 0
    for sample in samples(twins, 8):
        twins.run(sample, 0)
        _, clean = twins.map(0)
        twins.run(sample, 0, actions=EVALUATE, sign=1, seed=3, node_last=1)
        perturbed = twins.map(0)[1].astype(int)
        change = np.abs(perturbed - clean)
        still = (clean == node.low) | (clean == node.high)
        assert not np.any(change[still])
        assert node.low <= min(clean.min(), perturbed.min()) and max(clean.max(), perturbed.max()) <= node.high
        far = (clean >= node.low + 5) & (clean <= node.high - 5)
        assert np.all(change[far] == 5) and np.all(change[~still] > 0)
        inside, saturated = inside + int(np.sum(far)), saturated + int(np.sum(still))
    assert inside > 10 and saturated > 10


@pytest.mark.parametrize("kind", [small_models.small_model, lambda: small_models.residual_model(hidden=8)])
def test_perturbed_outputs_of_all_layers_at_once(kind: Any) -> None:
    """Layer after layer is perturbed as well: what the next one's output is before its turn is seen without its own."""
    twins = Twins(kind())
    last = sum(node.pool is None for node in twins.nodes)
    for number in range(last):
        twins.configure(number, 3 + number, number % 3, 0.0, 0.7)
    sample = samples(twins, 1)[0]
    for sign in (1, -1):
        for number in range(last):
            fields = {"actions": EVALUATE, "sign": sign, "seed": 9, "query": 2}
            twins.run(sample, 0, **fields, node_last=number)
            _, before = twins.map(number)
            twins.run(sample, 0, **fields, node_last=number + 1)
            _, after = twins.map(number)
            assert np.any(before != after)
            np.testing.assert_array_equal(after, twins.nodes[number].perturbed(before, sign, 9, 2))


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("name", ["conv, 40 channels", "depthwise, multiplier", "dense"])
def test_masks_are_of_channels(name: str, keep: float) -> None:
    """Others for every seed; the same in perturbation and update."""
    kind = LAYERS[name] | {"activation": "NONE", "margin": 0.5}
    twins = Twins(small_models.layer_model(**kind))
    twins.configure(0, 5, 0, 1e6, keep)
    node = twins.nodes[0]
    sample = samples(twins, 1)[0]
    twins.run(sample, 0)
    _, clean = twins.map(0)
    for seed in (3, 4, 5):
        twins.run(sample, 0, actions=EVALUATE | reference.CLEAR, sign=1, seed=seed, node_last=1)
        moved = np.any(twins.map(0)[1] != clean, axis=(0, 1))
        np.testing.assert_array_equal(moved, node.kept(seed))
    assert len({node.kept(seed).tobytes() for seed in range(50)}) > 3
    twins.run(
        sample,
        0,
        actions=reference.LOSS | reference.NODE_UPDATE,
        update_seed=5,
        update_queries=1,
        update_last=1,
        update_scale=1,
        node_rate=1,
    )
    assert node.bias is not None
    assert np.array_equal(node.bias.values != node.bias.initial, node.kept(5))


# -- updates -----------------------------------------------------------------------------------------------


@st.composite
def passes(draw: st.DrawFn, nodes: int, exact: bool) -> dict[str, Any]:
    """Any pass that perturbs or updates nodes, as a training might send it or not."""
    kinds = ["evaluate"] * 3 + ["update"] * 3 + ["closed form", "both"] * exact + ["initialise"]
    kind = draw(st.sampled_from(kinds))
    fields: dict[str, Any] = {"actions": reference.LOSS, "node_rate": draw(st.sampled_from([1.0, 0.3]))}
    if kind == "evaluate":
        first, last = sorted([draw(st.integers(0, nodes)), draw(st.integers(0, nodes))])
        fields |= {"sign": draw(st.sampled_from([1, 1, -1, -1, 0])), "seed": draw(seeds), "query": draw(queries)}
        fields |= {"node_first": first, "node_last": last}
        fields["actions"] |= reference.ACCUMULATE | draw(st.sampled_from([0, 0, reference.CLEAR]))
    elif kind == "initialise":
        fields["actions"] |= reference.INITIALISE
    else:
        fields["actions"] |= draw(st.sampled_from([0, reference.NODE_APPLY]))
        fields["actions"] |= draw(st.sampled_from([0, 0, reference.NODE_BEGIN]))
    if kind in ("update", "both"):
        fields["actions"] |= reference.NODE_UPDATE | draw(st.sampled_from([0, reference.FORWARD]))
        fields["actions"] |= draw(st.sampled_from([0, 0, 0, reference.ACCUMULATE, reference.CLEAR]))
        first, last = sorted([draw(st.sampled_from([0, 0, 1])), draw(st.sampled_from([nodes, nodes, 1]))])
        fields |= {
            "update_seed": draw(seeds),
            "update_queries": draw(st.integers(1, 4) | st.sampled_from([0, reference.MAX_QUERIES])),
            "update_first": first,
            "update_last": last,
            "update_scale": np.float32(draw(st.sampled_from([0.5, 1 / 3, 0.1]))),
        }
    if kind in ("closed form", "both"):
        fields["actions"] |= reference.HEAD
        fields |= {"head_rate": np.float32(draw(st.sampled_from([0.0, 1e-2]))), "head_seed": draw(seeds)}
    return fields


@pytest.mark.slow
@settings(max_examples=250, derandomize=True)
@given(
    kind=layer_models(),
    trainable=st.sampled_from(["all", "all", "all", "probe", "bias", "probe/bias,dense"]),
    accumulate=st.booleans(),
    data=st.data(),
)
def test_any_passes(kind: dict[str, Any], trainable: str, accumulate: bool, data: st.DataObject) -> None:
    """From steps far below one code to the ends of the range, in any order of perturbations and updates.

    Steps of many codes show the last bit of what they are made of: those of biases, and the accumulators.
    """
    if "bias" in trainable:
        kind["bias"] = True
    twins = Twins(small_models.layer_model(**kind), trainable, accumulate=accumulate)
    nodes, model = len(twins.nodes), twins.engine.model
    for number, node in enumerate(twins.nodes):
        sigma = data.draw(st.sampled_from([1, 5, 5, 20])) if node.pool is None else 0
        rate = data.draw(st.sampled_from([0.0, 1e-2, 0.3, 3.0, 1e3, 1e4, 1e7]))
        twins.configure(number, sigma, data.draw(blocks), rate, data.draw(keeps))
    exact = model.exact_head or any(node.closed_form for node in model.nodes)
    xs = samples(twins, 2)
    sample = st.integers(0, 1)
    for query in range(3):  # losses of a few directions, so that updates have something to go by
        fields = {"actions": EVALUATE, "seed": 7, "query": query, "node_last": 1}
        twins.run(xs[0], 0, **fields, sign=data.draw(st.sampled_from([1, -1])))
    for _ in range(data.draw(st.integers(2, 8))):
        chosen = data.draw(sample)
        twins.run(xs[chosen], chosen, **data.draw(passes(nodes, exact)))


@pytest.mark.parametrize("accumulate", [False, True])
def test_biases_at_the_ends_of_their_range(accumulate: bool) -> None:
    """Those that start with headroom keep it, the others go to the very end, at most 2^30 in one step.

    The output's scale is so large that these biases are a few codes.
    """
    graph = Graph(small_models.layer_model("conv", (2, 2, 1), 8, activation="NONE", per_channel=False))
    x, w, b = graph.of_layer("probe").inputs
    limit, headroom = 2**31 - 1, 1 << 20
    edge = limit - headroom
    biases = np.array([limit, -limit, edge, -edge, edge + 1, -edge - 1, 0, -limit - 1])
    graph.tree.buffers[graph.tensors[b].buffer].data = np.frombuffer(biases.astype(np.int32).tobytes(), np.uint8)
    output = graph.tensors[graph.of_layer("probe").outputs[0]].quantization
    output.scale, output.zeroPoint = [graph.scale(x) * graph.scale(w) * 2**31 / 50], [0]
    twins = Twins(save_model(graph.tree), "probe", accumulate=accumulate)
    twins.configure(0, 5, 0, 1e20)
    sample = samples(twins, 1)[0]
    ends = []
    for seed in range(8):
        fields = {"actions": EVALUATE | reference.CLEAR, "sign": 1, "seed": seed, "node_last": 1}
        assert twins.run(sample, 0, **fields) > 0
        twins.run(
            sample,
            0,
            actions=reference.LOSS | reference.NODE_UPDATE | reference.NODE_APPLY,
            update_seed=seed,
            update_queries=1,
            update_last=1,
            update_scale=1,
            node_rate=1,
        )
        bias = twins.nodes[0].bias
        assert bias is not None
        ends.append(np.abs(bias.values))
    np.testing.assert_array_equal(np.max(ends, axis=0), np.where(np.abs(biases) <= edge, edge, limit))


def train(twins: Twins, schedule: compiled.Schedule, steps: int, batch: int, plain: Engine | None = None) -> None:
    """Steps in the order of passes of a training; ``plain`` makes the same passes and is to have the same losses."""
    xs = samples(twins, batch)
    for step in range(steps):
        for sample in schedule.step(step, batch, 0.7):
            fields = {name: np.frombuffer(schedule.command.tobytes(), COMMAND_DTYPE)[name][0] for name in FIELDS}
            loss = twins.run(xs[sample], sample % 3, **fields)
            if plain is not None:
                assert loss == plain.loss(schedule.command, xs[sample], sample % 3)


def moved(twins: Twins) -> set[str]:
    """Names of the parameters that are not what they were."""
    pairs = zip(twins.engine.model.parameters, twins.engine.tensors(), strict=True)
    return {p.name for p, values in pairs if np.any(values != (p.initial if p.in_model else 0))}


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("trainable", ["all", "bias"])
@pytest.mark.parametrize("name", LAYERS)
def test_training_steps(name: str, trainable: str, antithetic: bool, accumulate: bool) -> None:
    """Whole steps by node perturbation, with the layer's and the head's exact updates in between.

    With accumulators, other channels take part for every sample, and all that were summed are applied.
    """
    twins = Twins(small_models.layer_model(**LAYERS[name]), trainable, accumulate=accumulate)
    twins.configure(0, 5, 3 * accumulate, 3.0, 0.6 if accumulate else 1.0)
    for node in twins.nodes[1:]:
        twins.configure(node.number, 0, 1, 0.3)
    schedule = compiled.Schedule(
        seed=11,
        antithetic=antithetic,
        exact=Exact.ALL,
        head_rate=0.01,
        accumulate=accumulate,
        groups=[Group(GroupMode.NODES, 0, 1, 3)],
        batch=3,
    )
    train(twins, schedule, 2, 3)
    assert moved(twins) == {p.name for p in twins.engine.model.parameters}
    assert [node.pool is None for node in twins.nodes] == [True] + [False] * (name in CLOSED)


def train_exactly(twins: Twins, passes: int) -> None:
    """Exact updates alone, one pass a sample."""
    closed = twins.nodes[-1]
    assert closed.pool is not None
    twins.configure(closed.number, 0, 1, 1.0)
    for i, sample in enumerate(samples(twins, passes)):
        actions = reference.LOSS | reference.HEAD
        twins.run(sample, i % 3, actions=actions, head_seed=i, head_rate=np.float32(0.01), node_rate=1)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_form_alone(name: str) -> None:
    """Behind a frozen head, too; the gradient is that of the present weights, sample by sample."""
    head = {"dense/weights", "dense/residual", "dense/bias"}
    for trainable, names in (("exact", head), ("probe", set())):
        twins = Twins(small_models.layer_model(**LAYERS[name]), trainable)
        train_exactly(twins, 4)
        assert moved(twins) == names | {"probe/weights", "probe/bias"}


def test_closed_form_through_a_sum() -> None:
    """The sum's ends stop the gradient, not those of the layer's own output, which is gone by then."""
    twins = Twins(small_models.closed_sum_model(), "exact", mapped={"probe": "sum/output"})
    assert twins.nodes[-1].pool == (2, 2)
    train_exactly(twins, 6)
    assert {"probe/weights", "probe/bias"} < moved(twins)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("kind", [small_models.small_model, lambda: small_models.residual_model(hidden=8)])
def test_deep_models(kind: Any, accumulate: bool) -> None:
    """All layers by their outputs, first one by one and then the rest together; where tensors share memory as well."""
    twins = Twins(kind(), accumulate=accumulate)
    plain = Engine(patch(kind(), "all", accumulate=accumulate))
    last = sum(node.pool is None for node in twins.nodes)
    for node in twins.nodes:
        twins.configure(node.number, 5, node.number % 3, 0.3)
        assert plain.state.configure_node(node.number, 5, node.number % 3, 0.3)
    groups = [(0, 1), (1, 2), (2, last)] if last > 2 else [(0, 1), (1, last)]
    schedule = compiled.Schedule(
        seed=5,
        antithetic=True,
        exact=Exact.ALL,
        head_rate=0.01,
        accumulate=accumulate,
        groups=[Group(GroupMode.NODES, *group, 2) for group in groups],
        batch=2,
    )
    train(twins, schedule, 2, 2, plain)
    assert moved(twins) == {p.name for p in twins.engine.model.parameters}
    for ours, theirs in zip(twins.engine.tensors(), plain.tensors(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
