# SPDX-License-Identifier: Apache-2.0
"""The native engine behind :class:`~tflm_zo.simulator.model.SimModel`, with errors as exceptions."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.window import Geometry
from tflm_zo.simulator import layouts, library
from tflm_zo.simulator.fixed_point import AddMultipliers, LogisticParams, Multiplier, SoftmaxParams


def _address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


class Operand(NamedTuple):
    """An operand of an elementwise operator: a tensor, or -1 and a ``constant`` (int8).

    ``places`` (int32) has the element that each element of the output takes; None: they have the same shape.
    """

    tensor: int
    constant: np.ndarray | None
    places: np.ndarray | None

    def native(self) -> layouts.Operand:
        """The engine's form; valid as long as this operand."""
        places = None if self.places is None else self.places.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        return layouts.Operand(self.tensor, _address(self.constant), places)


class Engine:
    """Owns one native engine; ``kernels/sim/sim_api.h`` has the contract of each method.

    ``tensor_sizes``: elements of one sample of each tensor, 0 for those without activations. Raises
    :class:`ZoError` for an instruction set that is unknown or that this processor lacks.
    """

    def __init__(self, tensor_sizes: Sequence[int], instruction_set: str) -> None:
        if instruction_set not in library.INSTRUCTION_SETS:
            known = ", ".join(library.INSTRUCTION_SETS)
            raise ZoError(f"instruction_set is {instruction_set!r}; it must be one of {known}")
        self._library = library.load_library()
        sizes = (ctypes.c_int64 * len(tensor_sizes))(*tensor_sizes)
        code = library.INSTRUCTION_SETS[instruction_set]
        self._handle = self._library.tflm_zo_sim_create(sizes, len(tensor_sizes), code)
        if not self._handle:
            raise ZoError(f"this processor does not run {instruction_set}; choose 'auto'")
        self._parameters: list[np.ndarray] = []  # the engine reads them until it is closed

    @property
    def instruction_set(self) -> str:
        """The instruction set in use, never "auto"."""
        code = self._library.tflm_zo_sim_instruction_set(self._handle)
        return next(name for name, value in library.INSTRUCTION_SETS.items() if value == code)

    @property
    def handle(self) -> int:
        """Address of the native engine."""
        return int(self._handle)

    def close(self) -> None:
        """Free the native engine; no other method may be called afterwards."""
        self._library.tflm_zo_sim_destroy(self._handle)
        self._handle = None

    def _check(self, status: int) -> None:
        if status != 0:
            raise ZoError(self._library.tflm_zo_sim_error(self._handle).decode())

    def _keep(self, weights: np.ndarray, bias: np.ndarray | None) -> None:
        self._parameters += [weights] if bias is None else [weights, bias]

    def add_conv(
        self,
        tensors: tuple[int, int],
        geometry: Geometry,
        *,
        output_channels: int,
        groups: int,
        weights: np.ndarray,
        bias: np.ndarray | None,
        quantization: layouts.Quantization,
    ) -> None:
        """Append a convolution or fully connected layer; ``tensors``: input and output."""
        self._keep(weights, bias)
        self._check(
            self._library.tflm_zo_sim_add_conv(
                self._handle,
                *tensors,
                _window(geometry),
                output_channels,
                groups,
                _address(weights),
                _address(bias),
                quantization,
            )
        )

    def add_depthwise(
        self,
        tensors: tuple[int, int],
        geometry: Geometry,
        multiplier: int,
        weights: np.ndarray,
        bias: np.ndarray | None,
        quantization: layouts.Quantization,
    ) -> None:
        """Append a depthwise convolution; ``tensors``: input and output."""
        self._keep(weights, bias)
        self._check(
            self._library.tflm_zo_sim_add_depthwise(
                self._handle, *tensors, _window(geometry), multiplier, _address(weights), _address(bias), quantization
            )
        )

    def add_pool(
        self, tensors: tuple[int, int], average: bool, geometry: Geometry, activation: tuple[int, int]
    ) -> None:
        """Append an average or maximum pooling; ``activation``: the limits of its output."""
        add = self._library.tflm_zo_sim_add_average_pool if average else self._library.tflm_zo_sim_add_max_pool
        self._check(add(self._handle, *tensors, _window(geometry), *activation))

    def add_mean(
        self,
        tensors: tuple[int, int],
        sizes: tuple[int, int, int],
        zero_points: tuple[int, int],
        multiplier: Multiplier,
    ) -> None:
        """Append a mean over the middle one of three ``sizes`` that the input consists of.

        ``tensors`` and ``zero_points``: input and output.
        """
        params = layouts.MeanParams(*sizes, zero_points[0], *multiplier, zero_points[1])
        self._check(self._library.tflm_zo_sim_add_mean(self._handle, *tensors, params))

    def add_add(
        self,
        tensors: tuple[int, int, int],
        zero_points: tuple[int, int, int],
        multipliers: AddMultipliers,
        activation: tuple[int, int],
    ) -> None:
        """Append an addition; ``tensors`` and ``zero_points``: both inputs, output."""
        params = _add_params(zero_points, multipliers, activation)
        self._check(self._library.tflm_zo_sim_add_add(self._handle, *tensors, params))

    def add_sum(
        self,
        operands: tuple[Operand, Operand],
        output: int,
        zero_points: tuple[int, int, int],
        multipliers: AddMultipliers,
        activation: tuple[int, int],
        subtract: bool,
    ) -> None:
        """Append a sum or difference of operands of any shapes; ``zero_points``: both operands, output."""
        params = _add_params(zero_points, multipliers, activation)
        first, second = (operand.native() for operand in operands)
        self._check(self._library.tflm_zo_sim_add_sum(self._handle, first, second, output, params, subtract))

    def add_product(
        self,
        operands: tuple[Operand, Operand],
        output: int,
        zero_points: tuple[int, int, int],
        multiplier: Multiplier,
        activation: tuple[int, int],
    ) -> None:
        """Append a product of operands of any shapes; ``zero_points``: both operands, output."""
        params = layouts.ProductParams(*zero_points[:2], *multiplier, zero_points[2], *activation)
        first, second = (operand.native() for operand in operands)
        self._check(self._library.tflm_zo_sim_add_product(self._handle, first, second, output, params))

    def add_requantize(self, tensors: tuple[int, int], zero_points: tuple[int, int], multiplier: Multiplier) -> None:
        """Append a change of scale; ``tensors`` and ``zero_points``: input and output."""
        params = layouts.RequantizeParams(zero_points[0], *multiplier, zero_points[1])
        self._check(self._library.tflm_zo_sim_add_requantize(self._handle, *tensors, params))

    def add_logistic(self, tensors: tuple[int, int], input_zero_point: int, params: LogisticParams) -> None:
        """Append a logistic function; ``tensors``: input and output."""
        native = layouts.LogisticParams(input_zero_point, *params)
        self._check(self._library.tflm_zo_sim_add_logistic(self._handle, *tensors, native))

    def add_tanh(self, tensors: tuple[int, int], input_zero_point: int, params: LogisticParams) -> None:
        """Append a hyperbolic tangent; ``tensors``: input and output."""
        native = layouts.LogisticParams(input_zero_point, *params)
        self._check(self._library.tflm_zo_sim_add_tanh(self._handle, *tensors, native))

    def add_lookup(self, tensors: tuple[int, int], table: np.ndarray) -> None:
        """Append an operator on single codes. ``table``: int8 (256,), for codes from -128 on."""
        self._check(self._library.tflm_zo_sim_add_lookup(self._handle, *tensors, _address(table)))

    def add_pairs(self, operands: tuple[Operand, Operand], output: int, table: np.ndarray) -> None:
        """Append an operator on pairs of codes of any shapes. ``table``: int8 (256, 256), by codes from -128 on."""
        first, second = (operand.native() for operand in operands)
        self._check(self._library.tflm_zo_sim_add_pairs(self._handle, first, second, output, _address(table)))

    def add_gather(
        self, inputs: Sequence[int], output: int, places: np.ndarray, fill: np.ndarray | None = None
    ) -> None:
        """Append an operator that moves codes.

        ``places``: int32, for each element of the output that of the inputs, counted through one after the other, or
        -1 for the one of ``fill`` (int8, of the output's size).
        """
        indices = (ctypes.c_int32 * len(inputs))(*inputs)
        self._check(
            self._library.tflm_zo_sim_add_gather(
                self._handle, indices, len(inputs), output, _address(places), _address(fill)
            )
        )

    def add_extremum(self, tensors: tuple[int, int], places: np.ndarray, maximum: bool) -> None:
        """Append a maximum or minimum over ``places``: int32 (outputs, elements of the input for each)."""
        self._check(
            self._library.tflm_zo_sim_add_extremum(self._handle, *tensors, _address(places), places.shape[1], maximum)
        )

    def add_matmul(self, operands: tuple[Operand, Operand], output: int, params: layouts.MatmulParams) -> None:
        """Append a product of matrices; ``operands``: (batches, rows, depth) and (batches, columns, depth)."""
        left, right = (operand.native() for operand in operands)
        self._check(self._library.tflm_zo_sim_add_matmul(self._handle, left, right, output, params))

    def add_transpose_conv(
        self,
        tensors: tuple[int, int],
        geometry: Geometry,
        weights: np.ndarray,
        bias: np.ndarray | None,
        quantization: layouts.Quantization,
    ) -> None:
        """Append a transposed convolution; ``tensors``: input and output; ``weights``: int8 (outputs, ..., inputs)."""
        self._check(
            self._library.tflm_zo_sim_add_transpose_conv(
                self._handle,
                *tensors,
                _window(geometry),
                len(weights),
                _address(weights),
                _address(bias),
                quantization,
            )
        )

    def add_blend(self, tensors: tuple[int, int], places: np.ndarray, weights: np.ndarray) -> None:
        """Append weighted means of four elements: ``places`` and ``weights`` (outputs, 4), int32, sums 2**20."""
        self._check(self._library.tflm_zo_sim_add_blend(self._handle, *tensors, _address(places), _address(weights)))

    def add_lstm(
        self,
        tensors: tuple[int, int],
        params: layouts.LstmParams,
        parameters: tuple[np.ndarray, np.ndarray],
        rescalings: Sequence[Multiplier],
        tables: np.ndarray,
    ) -> None:
        """Append an LSTM; ``tensors``: input and output; ``parameters``: weights and biases of all gates."""
        weights, bias = parameters
        native = np.array([(r.significand, r.left_shift, r.right_shift) for r in rescalings], np.int32)
        self._check(
            self._library.tflm_zo_sim_add_lstm(
                self._handle, *tensors, params, *map(_address, (weights, bias, native, tables))
            )
        )

    def add_softmax(self, tensors: tuple[int, int], depth: int, params: SoftmaxParams) -> None:
        """Append a softmax over rows of ``depth`` elements."""
        self._check(self._library.tflm_zo_sim_add_softmax(self._handle, *tensors, depth, *params))

    def add_reshape(self, tensors: tuple[int, int]) -> None:
        """Append a change of shape that keeps the order of the elements."""
        self._check(self._library.tflm_zo_sim_add_reshape(self._handle, *tensors))

    def finish(self) -> None:
        """Plan the memory; no layer can be added afterwards."""
        self._check(self._library.tflm_zo_sim_finish(self._handle))

    def run(
        self,
        first: int,
        last: int,
        samples: int,
        tensors: Mapping[int, np.ndarray],
        accumulators_layer: int | None,
        accumulators: np.ndarray | None,
    ) -> None:
        """Run layers [first, last); ``tensors`` are read and written in place, C-contiguous int8."""
        count = len(tensors)
        indices = (ctypes.c_int32 * count)(*tensors)
        data = (ctypes.c_void_p * count)(*[array.ctypes.data for array in tensors.values()])
        self._check(
            self._library.tflm_zo_sim_run(
                self._handle,
                first,
                last,
                samples,
                indices,
                data,
                count,
                -1 if accumulators_layer is None else accumulators_layer,
                _address(accumulators),
            )
        )


def _window(geometry: Geometry) -> layouts.Window:
    return layouts.Window(**geometry._asdict())


def _add_params(
    zero_points: tuple[int, int, int], multipliers: AddMultipliers, activation: tuple[int, int]
) -> layouts.AddParams:
    first, second, output = multipliers
    return layouts.AddParams(
        zero_points[0],
        first.significand,
        first.right_shift,
        zero_points[1],
        second.significand,
        second.right_shift,
        output.significand,
        output.right_shift,
        zero_points[2],
        *activation,
    )


def weight_quantization(
    multipliers: Sequence[Multiplier],
    input_zero_point: int,
    output_zero_point: int,
    activation: tuple[int, int],
) -> layouts.Quantization:
    """The engine's form of the rescaling of a layer with weights, one multiplier per output channel."""

    def column(field: int) -> ctypes.Array[ctypes.c_int32]:
        return (ctypes.c_int32 * len(multipliers))(*[multiplier[field] for multiplier in multipliers])

    return layouts.Quantization(column(0), column(1), column(2), input_zero_point, output_zero_point, *activation)
