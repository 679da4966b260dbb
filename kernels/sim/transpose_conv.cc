// SPDX-License-Identifier: Apache-2.0
#include "transpose_conv.h"

#include <algorithm>
#include <cstddef>

#include "requantize.h"

namespace tflm_zo {
namespace sim {

TransposeConvLayer::TransposeConvLayer(const TflmZoSimWindow& window, int32_t output_channels,
                                       const int8_t* weights, const int32_t* bias,
                                       const TflmZoSimQuantization& q)
    : window_(window),
      output_channels_(output_channels),
      weights_(weights, weights + static_cast<size_t>(output_channels) * window.kernel_height *
                                      window.kernel_width * window.channels),
      bias_(static_cast<size_t>(output_channels), 0),
      multiplier_(q.multiplier, q.multiplier + output_channels),
      left_shift_(q.left_shift, q.left_shift + output_channels),
      right_shift_(q.right_shift, q.right_shift + output_channels),
      input_zero_point_(q.input_zero_point),
      output_zero_point_(q.output_zero_point),
      activation_min_(q.activation_min),
      activation_max_(q.activation_max),
      sums_(static_cast<size_t>(window.output_height) * window.output_width * output_channels) {
  if (bias != nullptr) bias_.assign(bias, bias + output_channels);
}

void TransposeConvLayer::AddPixel(const int8_t* pixel, int32_t in_y, int32_t in_x) {
  const TflmZoSimWindow& w = window_;
  const int64_t filter_bytes = static_cast<int64_t>(w.kernel_height) * w.kernel_width * w.channels;
  for (int32_t ky = 0; ky < w.kernel_height; ++ky) {
    const int32_t y = in_y * w.stride_height - w.pad_top + ky;
    if (y < 0 || y >= w.output_height) continue;
    for (int32_t kx = 0; kx < w.kernel_width; ++kx) {
      const int32_t x = in_x * w.stride_width - w.pad_left + kx;
      if (x < 0 || x >= w.output_width) continue;
      int32_t* sums = sums_.data() + (y * w.output_width + x) * output_channels_;
      const int8_t* filter = weights_.data() + (ky * w.kernel_width + kx) * w.channels;
      for (int32_t c = 0; c < output_channels_; ++c, filter += filter_bytes) {
        int32_t sum = 0;
        for (int32_t i = 0; i < w.channels; ++i) sum += (pixel[i] - input_zero_point_) * filter[i];
        sums[c] += sum;
      }
    }
  }
}

void TransposeConvLayer::Run(const LayerIo& io) {
  const TflmZoSimWindow& w = window_;
  const int8_t* input = io.inputs[0];
  int8_t* output = io.output;
  for (int32_t s = 0; s < io.samples; ++s) {
    std::fill(sums_.begin(), sums_.end(), 0);
    for (int32_t y = 0; y < w.input_height; ++y) {
      for (int32_t x = 0; x < w.input_width; ++x, input += w.channels) AddPixel(input, y, x);
    }
    for (size_t i = 0; i < sums_.size(); ++i) {
      const size_t c = i % static_cast<size_t>(output_channels_);
      const int32_t scaled =
          Rescale(sums_[i] + bias_[c], multiplier_[c], left_shift_[c], right_shift_[c]);
      *output++ = ClampToInt8(scaled + output_zero_point_, activation_min_, activation_max_);
    }
  }
}

}  // namespace sim
}  // namespace tflm_zo
