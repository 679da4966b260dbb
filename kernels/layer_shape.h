// SPDX-License-Identifier: Apache-2.0
//
// Geometry of a layer with weights, and the order of its weights in memory.
#ifndef TFLM_ZO_KERNELS_LAYER_SHAPE_H_
#define TFLM_ZO_KERNELS_LAYER_SHAPE_H_

#include <cstdint>

namespace tflm_zo {

enum LayerKind : int32_t { kConvolution = 0, kDepthwise = 1, kFullyConnected = 2 };

// Geometry of a layer on one sample, NHWC. A fully connected layer is a 1 x 1 convolution of
// `input_height` rows of `input_channels` features. Depthwise: output channel o reads input channel
// o / depth_multiplier.
struct LayerShape {
  int32_t kind;
  int32_t input_height, input_width, input_channels;
  int32_t output_height, output_width, output_channels;
  int32_t filter_height, filter_width;
  int32_t stride_height, stride_width;
  int32_t dilation_height, dilation_width;
  int32_t pad_top, pad_left;
  int32_t depth_multiplier;
};

inline int32_t Positions(const LayerShape& shape) {
  return shape.output_height * shape.output_width;
}

// Weights of one output channel.
inline int32_t FilterSize(const LayerShape& shape) {
  return shape.filter_height * shape.filter_width *
         (shape.kind == kDepthwise ? 1 : shape.input_channels);
}

// Index in the weight tensor of element k of output channel o's filter. Convolution and fully
// connected weights are stored [o][y][x][c], depthwise weights [y][x][o].
inline int32_t WeightIndex(const LayerShape& shape, int32_t o, int32_t k) {
  return shape.kind == kDepthwise ? k * shape.output_channels + o : o * FilterSize(shape) + k;
}

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_LAYER_SHAPE_H_
