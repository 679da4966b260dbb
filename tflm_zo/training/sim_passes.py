# SPDX-License-Identifier: Apache-2.0
"""The native trainer behind :class:`~tflm_zo.training.simulator_engine.SimulatorEngine`."""

from __future__ import annotations

import ctypes
import math
import weakref
from ctypes import c_int32
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model, schema, shape_of, tensor_name
from tflm_zo.model.graph import int8_part
from tflm_zo.model.sample_graph import sample_graph
from tflm_zo.ops.command import COMMAND_DTYPE, REPORT_DTYPE
from tflm_zo.ops.names import PREFIX
from tflm_zo.patching.bake import bake
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.simulator import library
from tflm_zo.simulator.layouts import ElementType
from tflm_zo.simulator.model import SimModel
from tflm_zo.training.sim_graph import TrainingGraph, TrainingOp, read_training_graph

_TYPES: dict[int, tuple[int, np.dtype]] = {
    schema.TensorType.INT8: (ElementType.INT8, np.dtype(np.int8)),
    schema.TensorType.INT32: (ElementType.INT32, np.dtype(np.int32)),
    schema.TensorType.FLOAT32: (ElementType.FLOAT32, np.dtype(np.float32)),
}


class SimPasses:
    """A patched model whose passes are carried out in batches, with the results of TFLM to the bit.

    Its training ops are the compiled ops of the plugin, its layers those of a :class:`SimModel`. Use it in one
    thread at a time. Raises :class:`ZoError` for models that the simulator cannot run.
    """

    def __init__(self, model: PatchedModel) -> None:
        tree = load_model(model.data)
        self.sim = SimModel(bake(model.data, {}), output=model.loss.output)
        graph = read_training_graph(tree, int8_part(sample_graph(model.data)))
        self._library = library.load_library()
        self._arrays = self._make_tensors(tree, model, graph.named)
        self._output_shape = model.output_shape[1:]
        tensors = [self._describe(index, tensor) for index, tensor in enumerate(tree.subgraphs[0].tensors)]
        handle = self._create(graph, model, tensors)
        # The engine is destroyed after the trainer, whose finalizer keeps the model.
        self._finalizer = weakref.finalize(self, _destroy, handle, self.sim, self._arrays)
        self._handle = handle
        problem = self._library.tflm_zo_sim_trainer_error(handle).decode()
        if problem:
            raise ZoError(f"the training ops refuse this model: {problem}")

    def _make_tensors(self, tree: Any, model: PatchedModel, named: frozenset[int]) -> dict[int, np.ndarray]:
        """Arrays of the tensors that ops have ``named``, other than activations, by index."""
        arrays: dict[int, np.ndarray] = {}
        for tensor in self.sim.tensors:
            if tensor.data is not None:
                arrays[tensor.index] = self.sim.constant(tensor.index)
        for parameter in model.parameters:
            if parameter.initial_tensor >= 0:
                arrays[parameter.initial_tensor] = np.array(parameter.initial)
        tensors = tree.subgraphs[0].tensors
        for index in named:
            if index not in arrays and tensor_name(tensors[index]).startswith(PREFIX):
                arrays[index] = np.zeros(shape_of(tensors[index]), _TYPES[tensors[index].type][1])
        for index, count in model.states.items():  # layers of the simulator keep none: cleared in vain
            arrays[index] = np.zeros(count, np.int8)
        return arrays

    def _describe(self, index: int, tensor: Any) -> library.TrainingTensor:
        array = self._arrays.get(index)
        if array is None:
            kind, _ = _TYPES.get(tensor.type, (ElementType.INT8, np.dtype(np.int8)))
            return library.TrainingTensor(kind, math.prod(shape_of(tensor)), None)
        # What the memory is, whatever the model says.
        kind = next(kind for kind, dtype in _TYPES.values() if dtype == array.dtype)
        return library.TrainingTensor(kind, array.size, array.ctypes.data)

    def _create(self, graph: TrainingGraph, model: PatchedModel, tensors: list[library.TrainingTensor]) -> int:
        head = (graph.head_layer, graph.head_layer)
        users = [library.TrainingParameter(*graph.users.get(p.tensor, head)) for p in model.parameters]
        nodes = [
            library.TrainingNode(
                _native(n.op), n.number, n.layer, n.first_change, n.input, n.output, n.closed_form, n.accumulates
            )
            for n in graph.nodes
        ]
        training = library.Training(
            (library.TrainingTensor * len(tensors))(*tensors),
            len(tensors),
            _native(graph.parameter_op),
            _native(graph.loss_op),
            (library.TrainingParameter * len(users))(*users),
            len(users),
            (library.TrainingNode * len(nodes))(*nodes),
            len(nodes),
            graph.layers,
            graph.head_layer,
            graph.command,
            graph.target,
            graph.report,
            graph.input,
            graph.logits,
            graph.features,
            graph.output,
        )
        handle = self._library.tflm_zo_sim_trainer_create(self.sim.engine.handle, training)
        if not handle:
            raise MemoryError("the simulator's trainer")
        return int(handle)

    @property
    def state_address(self) -> int:
        """Address of the parameter op's state."""
        return int(self._library.tflm_zo_sim_trainer_state(self._handle))

    def samples(self, x: np.ndarray, targets: np.ndarray, cache: bool = False) -> Samples:
        """Return samples ``x`` (as the input tensor, n) with ``targets`` (as the target tensor, n) for :meth:`run`.

        cache: the layers that the present settings leave alone run on all samples once, now; as long as the result
        is in use, neither settings nor the weights of those layers may change.
        """
        inputs, labels = np.ascontiguousarray(self.sim.codes(x)), np.ascontiguousarray(targets)
        handle = self._library.tflm_zo_sim_samples_create(
            self._handle, inputs.ctypes.data, labels.ctypes.data, len(inputs), cache
        )
        if not handle:
            raise ZoError(self._library.tflm_zo_sim_trainer_error(self._handle).decode())
        return Samples(handle, inputs, labels)

    def run(
        self, samples: Samples, commands: np.ndarray, indices: np.ndarray, want_outputs: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Carry out passes: ``commands`` (:data:`COMMAND_DTYPE`, n) on the samples of ``indices`` (n).

        Returns the reports (:data:`REPORT_DTYPE`, n) and, if wanted, the model's outputs (n). Raises
        :class:`ZoError` with the message of an op that refuses a pass; passes before it have been carried out.
        """
        commands = np.ascontiguousarray(commands, dtype=COMMAND_DTYPE)
        indices = np.ascontiguousarray(indices, dtype=np.int32)
        reports = np.zeros(len(indices), dtype=REPORT_DTYPE)
        outputs = np.empty((len(indices), *self._output_shape), dtype=np.int8) if want_outputs else None
        status = self._library.tflm_zo_sim_trainer_run(
            self._handle,
            samples.handle,
            commands.ctypes.data,
            indices.ctypes.data,
            len(indices),
            reports.ctypes.data,
            None if outputs is None else outputs.ctypes.data,
        )
        if status != 0:
            raise ZoError(self._library.tflm_zo_sim_trainer_error(self._handle).decode())
        return reports, None if outputs is None else self.sim.reals(outputs)


class Samples:
    """Labelled samples in the form that a :class:`SimPasses` runs on."""

    def __init__(self, handle: int, x: np.ndarray, targets: np.ndarray) -> None:
        self.handle = handle
        self.x, self.targets = x, targets
        self._finalizer = weakref.finalize(self, library.load_library().tflm_zo_sim_samples_destroy, handle)


def _destroy(handle: int, sim: SimModel, arrays: dict[int, np.ndarray]) -> None:
    del sim, arrays  # kept alive until now
    library.load_library().tflm_zo_sim_trainer_destroy(handle)


def _native(op: TrainingOp) -> library.TrainingOp:
    inputs = (c_int32 * len(op.inputs))(*op.inputs)
    outputs = (c_int32 * len(op.outputs))(*op.outputs)
    return library.TrainingOp(
        ctypes.cast(inputs, ctypes.POINTER(c_int32)),
        len(inputs),
        ctypes.cast(outputs, ctypes.POINTER(c_int32)),
        len(outputs),
        op.options,
        len(op.options),
    )
