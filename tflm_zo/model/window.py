# SPDX-License-Identifier: Apache-2.0
"""The windows that convolutions and poolings slide over an image: strides, dilations, padding and output sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tflm_zo.errors import ZoError
from tflm_zo.model.file import DAMAGED
from tflm_zo.model.graph import Operator, Tensor

# Steps beyond fit no field of the kernels' geometry.
_LARGEST_STEP = (1 << 15) - 1


class Geometry(NamedTuple):
    """A window that slides over an image in NHWC layout; ``channels`` are those of the input.

    Padding is at the top and left; bottom and right are extended as far as the last window reaches.
    """

    input_height: int
    input_width: int
    channels: int
    kernel_height: int
    kernel_width: int
    stride_height: int
    stride_width: int
    dilation_height: int
    dilation_width: int
    pad_top: int
    pad_left: int
    output_height: int
    output_width: int


@dataclass(frozen=True)
class Window:
    """Sizes in rows and columns; ``padding`` is "SAME" or "VALID"."""

    padding: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]

    def over(self, height: int, width: int, channels: int) -> Geometry:
        """Return the window's way over an image. Raises :class:`ZoError` if nothing is left of the image."""
        rows, columns = (
            _slide(self.padding, size, *steps)
            for size, *steps in zip((height, width), self.kernel, self.stride, self.dilation, strict=True)
        )
        return Geometry(
            height,
            width,
            channels,
            *self.kernel,
            *self.stride,
            *self.dilation,
            rows.padding,
            columns.padding,
            rows.output,
            columns.output,
        )


class _Slide(NamedTuple):
    """Output size and leading padding along one axis."""

    output: int
    padding: int


def _slide(padding: str, size: int, kernel: int, stride: int, dilation: int) -> _Slide:
    """As TFLite's ``ComputePaddingHeightWidth`` (tensorflow/lite/kernels/padding.h): half of the padding leads."""
    span = (kernel - 1) * dilation + 1
    output = -(-size // stride) if padding == "SAME" else (size + stride - span) // stride
    if output < 1:
        raise ZoError(f"a kernel that spans {span} pixels does not fit an image of {size}")
    return _Slide(output, max((output - 1) * stride + span - size, 0) // 2)


def trailing_padding(size: int, output: int, kernel: int, stride: int, dilation: int, leading: int) -> int:
    """Return by how much the last of ``output`` windows reaches beyond an axis of ``size``."""
    return max((output - 1) * stride + (kernel - 1) * dilation + 1 - leading - size, 0)


def read_window(operator: Operator, kernel: tuple[int, int] | None = None) -> Window:
    """Return the window of a convolution, whose ``kernel`` (rows, columns) is that of its weights, or of a pooling.

    Raises :class:`ZoError` for a padding, strides or dilations that no such operator has.
    """
    options = operator.options
    try:
        if kernel is None:
            kernel = (int(options["filterHeight"]), int(options["filterWidth"]))
        stride = (int(options["strideH"]), int(options["strideW"]))
        padding = str(options["padding"])
    except KeyError as error:
        raise operator.fail(f"it lacks the option {error.args[0]}: {DAMAGED}") from None
    dilation = (int(options.get("dilationHFactor", 1)), int(options.get("dilationWFactor", 1)))
    if padding not in ("SAME", "VALID"):
        raise operator.fail(f"padding {padding} is unknown: {DAMAGED}")
    if min(kernel) < 1 or not all(1 <= step <= _LARGEST_STEP for step in (*stride, *dilation)):
        raise operator.fail(f"window {kernel}, strides {stride} and dilations {dilation} do not fit: {DAMAGED}")
    return Window(padding, kernel, stride, dilation)


def read_geometry(
    operator: Operator, source: Tensor, target: Tensor, kernel: tuple[int, int] | None = None
) -> Geometry:
    """Return how the window of :func:`read_window` slides from ``source`` to ``target``.

    Raises :class:`ZoError` for tensors that are no images, and if ``target`` has another size than the window gives.
    """
    for tensor in (source, target):
        if len(tensor.shape) != 4:
            raise operator.fail(f"tensor '{tensor.name}' has shape {tensor.shape}; four dimensions are needed")
    geometry = read_window(operator, kernel).over(*source.sample_shape)
    expected = (geometry.output_height, geometry.output_width)
    if target.shape[1:3] != expected:
        raise operator.fail(f"output '{target.name}' is {target.shape[1:3]}, the window gives {expected}")
    return geometry


def depth_multiplier(operator: Operator, source: Tensor, weights: Tensor) -> int:
    """Return how many outputs a depthwise convolution makes of each input channel.

    Raises :class:`ZoError` if its option says another number than the shapes: TFLite Micro believes the option, and
    reads and writes beyond its tensors.
    """
    multiplier, rest = divmod(weights.shape[3], max(source.shape[3], 1))
    if rest or multiplier < 1 or operator.options.get("depthMultiplier", multiplier) != multiplier:
        raise operator.fail(f"weights of shape {weights.shape} do not fit {source.shape[3]} input channels")
    return multiplier
