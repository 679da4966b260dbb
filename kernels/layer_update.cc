// SPDX-License-Identifier: Apache-2.0
#include "layer_update.h"

namespace tflm_zo {

float FilterGradient(const LayerShape& shape, const int8_t* x, int32_t zero_point, int32_t channel,
                     const float* dy, float* dw) {
  const int32_t filter = FilterSize(shape);
  for (int32_t k = 0; k < filter; ++k) dw[k] = 0.0f;
  const bool depthwise = shape.kind == kDepthwise;
  const int32_t depth = depthwise ? 1 : shape.input_channels;
  const int32_t first_channel = depthwise ? channel / shape.depth_multiplier : 0;
  float sum = 0.0f;
  int32_t p = 0;
  for (int32_t oy = 0; oy < shape.output_height; ++oy) {
    for (int32_t ox = 0; ox < shape.output_width; ++ox, ++p) {
      const float slope = dy[p];
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

}  // namespace tflm_zo
