# SPDX-License-Identifier: Apache-2.0
"""The serial port of the host."""

from __future__ import annotations

import time
from typing import Any

from tflm_zo.errors import ZoError

_BAUD = 115200  # without meaning for USB and pseudo-terminals
_SLICE = 0.02  # seconds that a read waits at a time


class SerialPort:
    """A serial port by name. All methods raise ``OSError`` when the port is gone."""

    def __init__(self, name: str) -> None:
        """Open ``name``. Raises :class:`ZoError` if it cannot be opened."""
        self.name = name
        self._port: Any = None
        try:
            self.reopen()
        except (OSError, ValueError) as error:
            raise ZoError(f"cannot open the port {name}: {error}") from error

    def reopen(self) -> None:
        """Open the port anew; what had arrived is dropped."""
        try:
            import serial  # type: ignore[import-untyped]
        except ImportError as error:
            raise ZoError("serial ports need pyserial: install it with `pip install tflm-zo[board]`") from error
        self.close()
        self._port = serial.Serial(self.name, _BAUD, timeout=_SLICE, write_timeout=5)
        self._port.reset_input_buffer()

    def read(self, timeout: float) -> bytes:
        """Return what arrives, at the latest after about ``timeout`` seconds; empty if that is nothing."""
        deadline = time.monotonic() + timeout
        while True:
            data: bytes = self._port.read(max(1, self._port.in_waiting))
            if data or time.monotonic() >= deadline:
                return data

    def write(self, data: bytes) -> None:
        """Send ``data``."""
        self._port.write(data)

    def close(self) -> None:
        """Close the port; it can be opened again."""
        if self._port is not None:
            self._port.close()
            self._port = None
