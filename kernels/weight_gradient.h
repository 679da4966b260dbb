// SPDX-License-Identifier: Apache-2.0
//
// Gradients dL/dw and dL/db of one layer from the gradient dL/dy of its output: products with the
// layer's own input. Nothing is propagated to the layers before it.
#ifndef TFLM_ZO_KERNELS_WEIGHT_GRADIENT_H_
#define TFLM_ZO_KERNELS_WEIGHT_GRADIENT_H_

#include <cstdint>

#include "layer_shape.h"

namespace tflm_zo {

// Writes dL/dw of output channel `channel` to `dw` [FilterSize] and returns its dL/db:
//   dw[k] = sum over output positions of dL/dy * (x - zero_point), in units of (dL/dy) * code
//   db    = sum over output positions of dL/dy
// where x is the input code that weight k is multiplied with at that position; padding counts as
// zero_point. slope_at(row, column) returns dL/dy of the channel. It is called once for each
// position, so that the gradient of the output need not be stored.
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

#endif  // TFLM_ZO_KERNELS_WEIGHT_GRADIENT_H_
