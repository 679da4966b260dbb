# SPDX-License-Identifier: Apache-2.0
"""What Python uses of the compiled ops on any host: their state, the schedule of passes, formulas of rates."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.files import compiled_file
from tflm_zo.ops.channel_statistics import channel_axis
from tflm_zo.ops.command import COMMAND_DTYPE
from tflm_zo.ops.host_api import PROTOTYPES
from tflm_zo.ops.layouts import (
    COMMAND_WORDS,
    ChannelSum,
    RecalibrationStatus,
    ScheduleGroup,
    ScheduleSettings,
)
from tflm_zo.ops.names import moments_words
from tflm_zo.ops.native import declare
from tflm_zo.ops.options import KIND_DTYPES
from tflm_zo.ops.step import MAX_GROUPS, MAX_QUERIES, Exact, Group


@functools.cache
def library() -> ctypes.CDLL:
    """Load the library once. Raises :class:`ZoError` if the package was installed without it."""
    lib = ctypes.CDLL(str(compiled_file("_ops", "the library of the training ops")))
    declare(lib, PROTOTYPES)
    return lib


class OpState:
    """The parameter op's state inside an interpreter's arena.

    Valid only while that interpreter lives; whoever makes one keeps both.
    """

    def __init__(self, address: int) -> None:
        self._address = ctypes.c_void_p(address)

    def view(self, index: int) -> np.ndarray:
        """Return parameter ``index`` as it is in the arena, flat, not a copy."""
        data, count = ctypes.c_void_p(), ctypes.c_int()
        kind = library().tflm_zo_parameter(self._address, index, ctypes.byref(data), ctypes.byref(count))
        if kind < 0 or data.value is None:
            raise IndexError(index)
        dtype = KIND_DTYPES[kind]
        memory = (ctypes.c_uint8 * (count.value * dtype.itemsize)).from_address(data.value)
        return np.ctypeslib.as_array(memory).view(dtype)

    def restore_clean(self) -> None:
        """Take back the perturbation that the weights are in, exactly."""
        library().tflm_zo_restore_clean(self._address)

    def configure(self, index: int, sigma: int, rate: float, mask: tuple[int, int] = (0, 0)) -> bool:
        """Set sigma (codes), learning rate and mask (kind, level) of a parameter; False if out of range."""
        return bool(library().tflm_zo_configure(self._address, index, sigma, rate, *mask))

    def configure_node(self, node: int, sigma: int, block: int, rate: float, mask: tuple[int, int] = (0, 0)) -> bool:
        """Set sigma (output codes), block, learning rate and mask of a node; False if out of range."""
        return bool(library().tflm_zo_configure_node(self._address, node, sigma, block, rate, *mask))

    def moments(self, index: int) -> np.ndarray:
        """Return the momentum state (float32) of parameter ``index`` in the arena, empty without one."""
        address = library().tflm_zo_moments(self._address, index)
        if not address:
            return np.zeros(0, dtype=np.float32)
        words = moments_words(self.view(index).size)
        return np.ctypeslib.as_array((ctypes.c_float * words).from_address(address))

    def write(self, index: int, values: np.ndarray) -> bool:
        """Write a parameter's clean values; False, with nothing written, if they do not fit."""
        view = self.view(index)
        values = np.ascontiguousarray(values, dtype=view.dtype).reshape(-1)
        return bool(library().tflm_zo_write_parameter(self._address, index, values.ctypes.data, values.size))

    def recalibrate(self, codes: np.ndarray) -> bool:
        """Set the input adapter by what ``codes`` (int8 (n, *input_shape)) are now; False, with nothing written,
        without a reference or with fewer than 2 samples."""
        codes = np.ascontiguousarray(codes, dtype=np.int8)
        channels = codes.shape[1 + channel_axis(codes.shape[1:])]
        sums = (ChannelSum * channels)()
        status = library().tflm_zo_recalibrate(
            self._address, sums, channels, codes.ctypes.data, len(codes), codes[0].size
        )
        return bool(status == RecalibrationStatus.OK)


class Schedule:
    """The order of passes of a training step; see ``kernels/schedule.h``.

    Raises :class:`ZoError` if the groups cannot be run with batches of ``batch`` samples.
    """

    def __init__(
        self,
        *,
        seed: int,
        antithetic: bool,
        exact: Exact,
        head_rate: float,
        accumulate: bool,
        groups: Sequence[Group],
        batch: int,
    ) -> None:
        self._handle: ctypes.c_void_p | None = None
        if len(groups) > MAX_GROUPS:
            raise ZoError(
                f"{len(groups)} layers cannot be perturbed one by one (at most {MAX_GROUPS}): train fewer, or "
                "set layerwise=False"
            )
        settings = ScheduleSettings(
            seed=seed & 0xFFFFFFFF,
            antithetic=antithetic,
            exact=exact,
            head_rate=head_rate,
            accumulate=accumulate,
            group_count=len(groups),
        )
        for index, g in enumerate(groups):
            settings.groups[index] = ScheduleGroup(mode=g.mode, first=g.first, last=g.last, queries=g.queries)
        if not library().tflm_zo_schedule_valid(settings, batch):
            raise ZoError(
                f"queries times batch_size exceed the {MAX_QUERIES} directions that the ops keep, or forward "
                "differences are asked for where every sample has directions of its own"
            )
        self._handle = ctypes.c_void_p(library().tflm_zo_schedule_new(settings))
        self.command = np.zeros(COMMAND_WORDS, dtype=np.int32)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            library().tflm_zo_schedule_free(self._handle)

    def step(self, step: int, batch: int, rate_scale: float) -> Iterator[int]:
        """Yield the sample (0 .. batch - 1) of each pass; ``command`` then holds its command."""
        lib, handle, sample = library(), self._handle, ctypes.c_int()
        lib.tflm_zo_schedule_begin(handle, step, batch, rate_scale)
        address = self.command.ctypes.data
        while lib.tflm_zo_schedule_next(handle, address, ctypes.byref(sample)):
            yield sample.value

    def whole_step(self, step: int, batch: int, rate_scale: float, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the commands (:data:`COMMAND_DTYPE`) of all passes of a step, at most so many, and the sample
        (0 .. batch - 1, int32) of each."""
        commands, places = np.zeros(most, dtype=COMMAND_DTYPE), np.zeros(most, dtype=np.int32)
        count = library().tflm_zo_schedule_step(
            self._handle, step & 0xFFFFFFFF, batch, rate_scale, commands.ctypes.data, places.ctypes.data, most
        )
        if count < 0:
            raise AssertionError("a step has more passes than its recipe says")
        return commands[:count], places[:count]

    def flush(self) -> bool:
        """If an update is pending, put the command that applies it into ``command``."""
        return bool(library().tflm_zo_schedule_flush(self._handle, self.command.ctypes.data))


def limit_before_head(head_limit: float) -> float:
    """Return rate times kernel of the layers before the head and of those that are perturbed."""
    return float(library().tflm_zo_limit_before_head(head_limit))


def exact_rates(head_limit: float, feature_energy: float, layer_energy: float) -> tuple[float, float]:
    """Return the learning rates of the head and of the layers before it; see ``kernels/exact_rates.h``."""
    rates = (ctypes.c_double * 2)()
    library().tflm_zo_exact_rates(head_limit, feature_energy, layer_energy, rates)
    return rates[0], rates[1]
