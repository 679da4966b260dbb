# SPDX-License-Identifier: Apache-2.0
"""The board's app on the host: the same C++, with TFLM's Python wheel as its engine and a file as its flash."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import select
import tty
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from tflm_zo.board.layouts import CheckpointStatus
from tflm_zo.board.memory import batch_bytes, reference_channels
from tflm_zo.errors import ZoError
from tflm_zo.files import compiled_file
from tflm_zo.ops.layouts import COMMAND_WORDS, REPORT_WORDS, ChannelSum
from tflm_zo.ops.native import declare
from tflm_zo.patching.frozen_prefix import SplitModel, split
from tflm_zo.patching.patched_model import model_hash, read_patched
from tflm_zo.serial.framing import OVERHEAD
from tflm_zo.serial.host_app_layouts import PROTOTYPES, HostConfig, Invoke, Show, Tensor
from tflm_zo.serial.layouts import LedState, TrainerStatus
from tflm_zo.tflm.interpreter import Interpreter

PAGE_BYTES = 4096  # as the nRF52840 has them
_LEAST_PAGES = 16
_CHECKPOINT_OVERHEAD = 64  # room for the header of a checkpoint, and for progress
_FRAME_BYTES = 1024 + OVERHEAD

_FACTORY = "the factory weights are in use"
_CHECKPOINTS = {
    CheckpointStatus.OK: "the newest checkpoint is restored",
    CheckpointStatus.NONE: f"no checkpoint yet: {_FACTORY}",
    CheckpointStatus.OTHER_MODEL: f"the checkpoint in the flash file is of another model: {_FACTORY}",
    CheckpointStatus.OTHER_SIZE: f"the checkpoint in the flash file has other weights: {_FACTORY}",
}


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(compiled_file("_app", "the app")))
    declare(library, PROTOTYPES)
    return library


class PseudoTerminal:
    """A serial line within this machine: ``name`` is the port for others, ``line`` our end of it."""

    def __init__(self) -> None:
        self.line, self._other = os.openpty()
        tty.setraw(self._other)
        os.set_blocking(self.line, False)
        # We keep the other end open, too: else the line would end when the host closes it.
        self.name = os.ttyname(self._other)

    def close(self) -> None:
        """Take the line away."""
        os.close(self.line)
        os.close(self._other)


class FlashFile:
    """Flash whose content is kept in the file ``path``, made if it is missing.

    Raises :class:`ZoError` if the file cannot be used, or has not ``size`` bytes.
    """

    def __init__(self, path: str | os.PathLike[str], size: int) -> None:
        try:
            with Path(path).open("a+b") as stream:
                found = stream.seek(0, os.SEEK_END)
                if found == 0:
                    stream.write(b"\xff" * size)
                    stream.flush()
                elif found != size:
                    raise ZoError(f"{path} has {found} bytes, this model's flash {size}: delete it, or name another")
                self.content = mmap.mmap(stream.fileno(), size)
        except OSError as error:
            raise ZoError(f"cannot use {path} as flash: {error.strerror}") from error

    def flush(self) -> None:
        """Write to the file what has changed."""
        self.content.flush()


class HostApp:
    """The app on one patched ``model``, with ``line`` (a file descriptor, not blocking) as its serial port.

    flash: the file of its checkpoints. batch_size: samples that it has memory for. show: told the state of the
    LED, a :class:`LedState`. Raises :class:`ZoError` if the model cannot run.
    Close it in the end, or use it as a context manager.
    """

    def __init__(
        self,
        model: bytes,
        line: int,
        flash: str | os.PathLike[str],
        batch_size: int = 64,
        show: Callable[[int], None] | None = None,
    ) -> None:
        self._model = read_patched(model)
        self._line = line
        self._show = show
        self._led = 0
        parts = split(self._model.data)
        self._interpreter = Interpreter(self._model.data if parts is None else parts.suffix)
        self._frozen = None if parts is None else Interpreter(parts.prefix)
        self.fault: ZoError | None = None
        parameters = self._model.parameters
        weights = sum(p.arena_bytes + 4 * p.moments for p in parameters)
        pages = max(_LEAST_PAGES, 2 * -(-(weights + _CHECKPOINT_OVERHEAD) // PAGE_BYTES))
        self._flash = FlashFile(flash, pages * PAGE_BYTES)
        self._make_tensors(parts)
        self._sums = (ChannelSum * reference_channels(self._model))()
        self._config = HostConfig(
            line=line,
            flash=ctypes.addressof(ctypes.c_char.from_buffer(self._flash.content)),
            flash_bytes=pages * PAGE_BYTES,
            page_bytes=PAGE_BYTES,
            model=ctypes.cast(ctypes.c_char_p(self._model.data), ctypes.c_void_p),
            model_bytes=len(self._model.data),
            model_hash=model_hash(self._model.data),
            batch_bytes=batch_bytes(self._model, parts, batch_size),
            frame_bytes=_FRAME_BYTES,
            sums=ctypes.addressof(self._sums),
            channels=len(self._sums),
            invoke=Invoke(lambda: self._invoke(self._interpreter, self._inputs, self._outputs)),
            state=self._interpreter.state_address,
            invoke_frozen=Invoke(lambda: self._invoke(self._frozen, self._frozen_input, self._frozen_outputs)),
            show=Show(self._on_led),
        )
        _describe(self._inputs, self._config.inputs)
        _describe(self._outputs, self._config.outputs)
        _describe(self._frozen_input, self._config.frozen_input)
        _describe(self._frozen_outputs, self._config.frozen_outputs)
        self._app = ctypes.c_void_p(_library().tflm_zo_app_new(self._config))
        if not self._app:
            raise ZoError("not enough memory for the app")
        found = _library().tflm_zo_app_start(self._app)
        self.boot_message = _CHECKPOINTS.get(found, f"the flash file cannot be used: {_FACTORY}")
        if _library().tflm_zo_app_model_status(self._app) != TrainerStatus.OK:
            raise self.fault or ZoError("the model does not run: patch it again with this tflm-zo")

    def _make_tensors(self, parts: SplitModel | None) -> None:
        """The memory that the app fills before a pass and reads after it, of the rest and of the frozen layers."""
        self._inputs = [
            np.zeros(self._model.input_shape, self._model.input.dtype),
            np.zeros(COMMAND_WORDS, np.int32),
            np.zeros(self._model.target_shape, self._model.target_dtype),
        ]
        self._outputs = [np.zeros(self._model.output_shape, self._model.output.dtype), np.zeros(REPORT_WORDS, np.int32)]
        self._frozen_input: list[np.ndarray] = []
        self._frozen_outputs: list[np.ndarray] = []
        if parts is not None:
            # Inputs of the rest of the model, beside command and target, are what the frozen layers hand over.
            kept = [np.zeros(shape, np.int8) for shape in parts.kept_shapes]
            self._frozen_input, self._frozen_outputs = self._inputs[:1], [np.zeros_like(tensor) for tensor in kept]
            self._inputs = [kept[0], *self._inputs[1:], *kept[1:]]

    def _invoke(
        self, interpreter: Interpreter | None, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
    ) -> int:
        """One pass on the tensors that the app has filled; 0 if an op failed."""
        assert interpreter is not None  # the app runs frozen layers only where it has been given some
        try:
            for index, tensor in enumerate(inputs):
                interpreter.set_input(tensor, index)
            interpreter.invoke()
        except ZoError as error:
            self.fault = error
            return 0
        for index, tensor in enumerate(outputs):
            tensor[...] = interpreter.get_output(index)
        return 1

    def _on_led(self, led: int) -> None:
        if self._led == LedState.SAVING:
            self._flash.flush()
        self._led = led
        if self._show is not None:
            self._show(led)

    def serve(self, stop: Callable[[], bool]) -> None:
        """Answer requests until ``stop`` is true, which is asked at least ten times a second."""
        poll = _library().tflm_zo_app_poll
        while not stop():
            if not poll(self._app):
                select.select([self._line], [], [], 0.1)

    def __enter__(self) -> HostApp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the app; what is in its flash is in the file."""
        _library().tflm_zo_app_free(self._app)
        self._flash.flush()


def _describe(arrays: Sequence[np.ndarray], tensors: ctypes.Array[Tensor]) -> None:
    """Tell the app, in the first of ``tensors``, where the arrays are."""
    for index, array in enumerate(arrays):
        tensors[index] = Tensor(data=array.ctypes.data, bytes=array.nbytes, is_int8=array.dtype == np.int8)
