// SPDX-License-Identifier: Apache-2.0
//
// The gradient of a layer's weights from the gradient of its output: one local product of the
// layer's own input with dL/dy, no chain rule.
#ifndef TFLM_ZO_KERNELS_LAYER_UPDATE_H_
#define TFLM_ZO_KERNELS_LAYER_UPDATE_H_

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

// dL/dw of output channel `channel`: dw[k] = sum over positions of dL/dy * (x - zero_point), in
// units of (dL/dy) * code; what the padding contributes is zero. slope_at(row, column) is dL/dy of
// the channel, called once per position, so the gradient of the output need not be stored. dw:
// [FilterSize]. Returns the sum of dL/dy, which is dL/db.
template <typename Slope>
float FilterGradient(const LayerShape& shape, const int8_t* x, int32_t zero_point, int32_t channel,
                     const Slope& slope_at, float* dw) {
  const int32_t filter = FilterSize(shape);
  for (int32_t k = 0; k < filter; ++k) dw[k] = 0.0f;
  const bool depthwise = shape.kind == kDepthwise;
  const int32_t depth = depthwise ? 1 : shape.input_channels;
  const int32_t first_channel = depthwise ? channel / shape.depth_multiplier : 0;
  float sum = 0.0f;
  for (int32_t oy = 0; oy < shape.output_height; ++oy) {
    for (int32_t ox = 0; ox < shape.output_width; ++ox) {
      const float slope = slope_at(oy, ox);
      if (slope == 0.0f) continue;  // saturated: contributes nothing
      sum += slope;
      for (int32_t fy = 0; fy < shape.filter_height; ++fy) {
        const int32_t iy = oy * shape.stride_height - shape.pad_top + fy * shape.dilation_height;
        if (iy < 0 || iy >= shape.input_height) continue;
        for (int32_t fx = 0; fx < shape.filter_width; ++fx) {
          const int32_t ix = ox * shape.stride_width - shape.pad_left + fx * shape.dilation_width;
          if (ix < 0 || ix >= shape.input_width) continue;
          const int8_t* input =
              x + (iy * shape.input_width + ix) * shape.input_channels + first_channel;
          float* row = dw + (fy * shape.filter_width + fx) * depth;
          for (int32_t c = 0; c < depth; ++c) {
            row[c] += slope * static_cast<float>(input[c] - zero_point);
          }
        }
      }
    }
  }
  return sum;
}

// dL/db of an output channel: the sum of dL/dy over its positions.
template <typename Slope>
float BiasGradient(const LayerShape& shape, const Slope& slope_at) {
  float sum = 0.0f;
  for (int32_t oy = 0; oy < shape.output_height; ++oy) {
    for (int32_t ox = 0; ox < shape.output_width; ++ox) sum += slope_at(oy, ox);
  }
  return sum;
}

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_LAYER_UPDATE_H_
