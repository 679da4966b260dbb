# SPDX-License-Identifier: Apache-2.0
# Written by tools/generate_layouts.py from the C++ headers named below: change those, and run it again.
"""Custom options of the training ops."""

import enum

from tflm_zo.ops.native import F32, I32, U32, Structure

# kernels/layer_shape.h


class LayerKind(enum.IntEnum):
    """``LayerKind`` of ``kernels/layer_shape.h``."""

    CONVOLUTION = 0
    DEPTHWISE = 1
    FULLY_CONNECTED = 2


class LayerShape(Structure):
    """``LayerShape`` of ``kernels/layer_shape.h``."""

    kind: I32
    input_height: I32
    input_width: I32
    input_channels: I32
    output_height: I32
    output_width: I32
    output_channels: I32
    filter_height: I32
    filter_width: I32
    stride_height: I32
    stride_width: I32
    dilation_height: I32
    dilation_width: I32
    pad_top: I32
    pad_left: I32
    depth_multiplier: I32


# kernels/op_options.h
OPTIONS_VERSION = 6
PARAMETER_OPTIONS_MAGIC = 0x5A4F5031
LOSS_OPTIONS_MAGIC = 0x5A4F4C31
NODE_OPTIONS_MAGIC = 0x5A4F4E31


class ParameterKind(enum.IntEnum):
    """``ParameterKind`` of ``kernels/op_options.h``."""

    WEIGHTS = 0
    BIAS = 1
    RESIDUAL = 2
    MEAN_PREDICTION = 3


class ParameterEntry(Structure):
    """``ParameterEntry`` of ``kernels/op_options.h``."""

    kind: I32
    layer: I32
    variable_input: I32
    initial_input: I32
    channels: I32
    channel_stride: I32
    headroom: I32
    exact: I32
    moments_input: I32
    factor_offset: I32
    factor_count: I32


class StateEntry(Structure):
    """``StateEntry`` of ``kernels/op_options.h``."""

    input: I32
    bytes: I32
    fill: I32


class ParameterOptions(Structure):
    """``ParameterOptions`` of ``kernels/op_options.h``."""

    magic: U32
    version: U32
    parameter_count: I32
    node_count: I32
    factor_count: I32
    reference_channels: I32
    reference_zero_point: I32
    gain_parameter: I32
    offset_parameter: I32
    state_count: I32


class LossKind(enum.IntEnum):
    """``LossKind`` of ``kernels/op_options.h``."""

    CROSS_ENTROPY = 0
    MEAN_SQUARED_ERROR = 1
    ENTROPY = 2


class LossOptions(Structure):
    """``LossOptions`` of ``kernels/op_options.h``."""

    magic: U32
    version: U32
    kind: I32
    outputs: I32
    scale: F32
    zero_point: I32
    high_resolution: I32
    features: I32
    feature_zero_point: I32
    feature_scale: F32
    headroom: I32
    trains_bias: I32
    positions: I32
    output: I32


class NodeOptions(Structure):
    """``NodeOptions`` of ``kernels/op_options.h``."""

    magic: U32
    version: U32
    node: I32
    shape: LayerShape
    input_zero_point: I32
    activation_min: I32
    activation_max: I32
    headroom: I32
    bias_headroom: I32
    inverse_output_scale: F32
    window_height: I32
    window_width: I32
    pooled_width: I32
    channels: I32
