# SPDX-License-Identifier: Apache-2.0
"""The simulator's model: runs whole or in part, with weights that may change between runs."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.ends import as_int8, as_uint8
from tflm_zo.model.graph import Graph, Tensor, int8_part
from tflm_zo.model.quantization import dequantize
from tflm_zo.model.sample_graph import sample_graph
from tflm_zo.simulator.engine import Engine
from tflm_zo.simulator.fixed_point import quantize_reals
from tflm_zo.simulator.lowering import check_operators, lower
from tflm_zo.simulator.sim_layer import SimLayer


@dataclass(frozen=True)
class RunResult:
    """``tensors``: int8 [batch, ...] by tensor index; ``accumulators``: int32 [batch, ...] if asked for."""

    tensors: dict[int, np.ndarray]
    accumulators: np.ndarray | None


class SimModel:
    """An int8 model, batch dimension 1, run on batches of any size on one thread.

    Outputs are the same to the bit as those of TFLite Micro's reference kernels. ``instruction_set`` is
    "auto" (the fastest here), "portable", "avx2", "avx512vnni" or "neon"; the results do not depend on it. Use
    a model in one thread at a time. A model that keeps a state starts each sample from a cleared one. If it has a
    float or uint8 input or output, inputs and outputs are the int8 tensors behind and before these; :meth:`codes` and
    :meth:`reals` convert. ``output``: the place of the one that is wanted, if it has several. Raises :class:`ZoError`
    for models with operators or types outside the simulator's set, for an unknown or unavailable instruction set, and
    if the engine is not built.
    """

    def __init__(self, model: bytes, instruction_set: str = "auto", output: int | None = None) -> None:
        whole = sample_graph(model)
        if output is not None:
            whole = replace(whole, outputs=(whole.outputs[output],))
        graph = int8_part(whole)
        self._graph: Graph = graph
        self._output_type = whole.tensors[whole.outputs[0]].type if whole.outputs else ""
        check_operators(graph)
        for index in (*graph.inputs, *graph.outputs):
            tensor = graph.tensors[index]
            if tensor.shape[:1] != (1,):
                raise ZoError(f"tensor '{tensor.name}' has shape {tensor.shape}; the batch dimension must be 1")
        engine = Engine([_activation_size(graph, tensor) for tensor in graph.tensors], instruction_set)
        self._engine = engine
        self._finalizer = weakref.finalize(self, engine.close)
        self.instruction_set = engine.instruction_set
        # Layers that share a constant of the model share its array.
        self._constants: dict[int, np.ndarray] = {}
        self.layers: tuple[SimLayer, ...] = tuple(
            lower(engine, graph, op, index, self.constant) for index, op in enumerate(graph.operators)
        )
        engine.finish()
        self._needed: dict[tuple[int, int], tuple[int, ...]] = {}

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the model, constants too."""
        return self._graph.tensors

    @property
    def inputs(self) -> tuple[int, ...]:
        """Indices of the model's input tensors, int8."""
        return self._graph.inputs

    @property
    def outputs(self) -> tuple[int, ...]:
        """Indices of the model's output tensors, int8."""
        return self._graph.outputs

    @property
    def engine(self) -> Engine:
        """The native engine; it lives as long as this model."""
        return self._engine

    def codes(self, x: np.ndarray) -> np.ndarray:
        """Return samples as :meth:`run` takes them: int8 as they are, float32 and uint8 as the model's QUANTIZE makes
        them."""
        tensor = self.tensors[self.inputs[0]]
        if x.dtype == np.uint8:
            return as_int8(x)
        return x if x.dtype == np.int8 else quantize_reals(x, tensor.scale, tensor.zero_point)

    def reals(self, outputs: np.ndarray) -> np.ndarray:
        """Return outputs of :meth:`run` as the model has them: float32 behind a DEQUANTIZE, uint8 behind a QUANTIZE to
        that, else unchanged."""
        quantization = self.tensors[self.outputs[0]].quantization
        if self._output_type == "UINT8":
            return as_uint8(outputs)
        # A float output can only be that of a DEQUANTIZE.
        if self._output_type != "FLOAT32" or quantization is None:
            return outputs
        return dequantize(outputs, quantization)

    def layer_of(self, tensor: int) -> int:
        """Return the index of the layer that computes ``tensor``. Raises :class:`ZoError` if none does."""
        for layer in self.layers:
            if layer.output == tensor:
                return layer.index
        raise ZoError(f"no layer computes tensor {tensor}")

    def constant(self, index: int) -> np.ndarray:
        """Return the array that layers compute with for a constant tensor; writing into it changes them.

        Raises :class:`ZoError` if the tensor is not a constant of int8 or int32.
        """
        if index not in self._constants:
            data = self.tensors[index].data
            if data is None:
                raise ZoError(f"tensor {index} ('{self.tensors[index].name}') is not an int8 or int32 constant")
            self._constants[index] = np.array(data, order="C")
        return self._constants[index]

    def run(self, x: np.ndarray) -> np.ndarray:
        """Return the output, int8 [batch, ...], for ``x``, int8 [batch, ...].

        Raises :class:`ZoError` if the shape or type of ``x`` is wrong, or the model has not one input and one
        output.
        """
        self._check_single_ends()
        return self.run_layers(0, len(self.layers), {self.inputs[0]: x}).tensors[self.outputs[0]]

    def activations(self, x: np.ndarray) -> dict[int, np.ndarray]:
        """Return the input and the output of every layer, int8 [batch, ...] by tensor index."""
        self._check_single_ends()
        keep = [layer.output for layer in self.layers]
        result = self.run_layers(0, len(self.layers), {self.inputs[0]: x}, keep)
        return {self.inputs[0]: x, **result.tensors}

    def run_from(self, first: int, tensors: Mapping[int, np.ndarray]) -> np.ndarray:
        """Run layers ``first`` to the end and return the model's output, int8 [batch, ...].

        ``tensors`` holds at least ``needed(first)``; others in it are ignored. Raises like
        :meth:`run_layers`.
        """
        self._check_single_ends()
        return self.run_layers(first, len(self.layers), tensors, self.outputs).tensors[self.outputs[0]]

    def needed(self, first: int, last: int | None = None) -> tuple[int, ...]:
        """Indices of the tensors that layers [first, last) read but do not compute.

        ``last`` None: to the end. Raises :class:`ZoError` if the range is empty or outside the model.
        """
        end = len(self.layers) if last is None else last
        cached = self._needed.get((first, end))
        if cached is None:
            self._check_range(first, end)
            span = self.layers[first:end]
            computed = {layer.output for layer in span}
            cached = tuple(dict.fromkeys(i for layer in span for i in layer.inputs if i not in computed))
            self._needed[(first, end)] = cached
        return cached

    def run_layers(
        self,
        first: int,
        last: int,
        tensors: Mapping[int, np.ndarray],
        keep: Iterable[int] | None = None,
        accumulators: int | None = None,
    ) -> RunResult:
        """Run layers [first, last) on cached activations.

        ``tensors``: int8 [batch, ...] by tensor index, at least ``needed(first, last)``; tensors that these
        layers compute are ignored. ``keep``: indices of tensors to return, computed by these layers; by
        default the model's outputs among them, or the last layer's output. ``accumulators``: index of a
        CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED layer in the range whose int32 accumulators, bias
        included, before rescaling, are returned in the shape of its output. Raises :class:`ZoError` if a
        tensor is missing or has a wrong shape or type.
        """
        self._check_range(first, last)
        span = self.layers[first:last]
        needed = self.needed(first, last)
        bound: dict[int, np.ndarray] = {}
        for index in needed:
            if index not in tensors:
                name = self.tensors[index].name
                raise ZoError(f"layers {first} to {last - 1} need tensor {index} ('{name}'); pass it in tensors")
            bound[index] = self._checked(index, tensors[index])
        batch = len(bound[needed[0]])
        if any(len(array) != batch for array in bound.values()):
            raise ZoError("the given tensors differ in their number of samples")

        if keep is None:
            computed = [layer.output for layer in span]
            keep = [index for index in self.outputs if index in computed] or computed[-1:]
        kept: dict[int, np.ndarray] = {}
        for index in keep:
            if not any(layer.output == index for layer in span):
                raise ZoError(f"tensor {index} is to be kept, but layers {first} to {last - 1} do not compute it")
            kept[index] = np.empty((batch, *self.tensors[index].sample_shape), np.int8)

        wanted: np.ndarray | None = None
        if accumulators is not None:
            if not first <= accumulators < last or self.layers[accumulators].weights is None:
                raise ZoError(
                    f"layer {accumulators} has no accumulators to return: name one with weights in [{first}, {last})"
                )
            shape = self.tensors[self.layers[accumulators].output].sample_shape
            wanted = np.empty((batch, *shape), np.int32)
        self._engine.run(first, last, batch, {**bound, **kept}, accumulators, wanted)
        return RunResult(kept, wanted)

    def _check_range(self, first: int, last: int) -> None:
        if not 0 <= first < last <= len(self.layers):
            raise ZoError(f"layers [{first}, {last}) are not a range within the model's [0, {len(self.layers)})")

    def _check_single_ends(self) -> None:
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            raise ZoError(
                f"the model has {len(self.inputs)} inputs and {len(self.outputs)} outputs; use run_layers, "
                f"which names them"
            )

    def _checked(self, index: int, array: np.ndarray) -> np.ndarray:
        tensor = self.tensors[index]
        if array.dtype != np.int8 or array.ndim == 0 or array.shape[1:] != tensor.sample_shape:
            sizes = ", ".join(map(str, tensor.sample_shape))
            raise ZoError(
                f"tensor {index} ('{tensor.name}') is {array.dtype} {array.shape}; it must be int8 (batch, {sizes})"
            )
        return np.ascontiguousarray(array)


def _activation_size(graph: Graph, tensor: Tensor) -> int:
    """Elements of one sample; 0 for constants and for what the simulator cannot compute with."""
    if tensor.data is not None or tensor.type != "INT8":
        return 0
    return tensor.sample_size
