// SPDX-License-Identifier: Apache-2.0
#include "pool.h"

#include <algorithm>

#include "requantize.h"

namespace tflm_zo {
namespace sim {
namespace {

struct Span {
  int32_t start;
  int32_t size;
};

// The part of the window at output position `at` that lies within the image.
Span Clip(int32_t at, int32_t stride, int32_t pad, int32_t kernel, int32_t size) {
  const int32_t origin = at * stride - pad;
  const int32_t start = std::max(0, origin);
  return {start, std::min(origin + kernel, size) - start};
}

// round(sum / count), ties away from zero.
int32_t RoundedQuotient(int32_t sum, int32_t count) {
  return (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
}

}  // namespace

PoolLayer::PoolLayer(const KernelTable* kernels, Pooling pooling, const Window& window,
                     int32_t activation_min, int32_t activation_max)
    : kernels_(kernels),
      pooling_(pooling),
      window_(window),
      activation_min_(activation_min),
      activation_max_(activation_max),
      reduced_(static_cast<size_t>(window.channels)) {}

void PoolLayer::Run(const LayerIo& io) {
  const Window& w = window_;
  int8_t* output = io.output;
  PixelRectangle rectangle;
  rectangle.row_stride = static_cast<int64_t>(w.input_width) * w.channels;
  rectangle.channels = w.channels;
  for (int32_t s = 0; s < io.samples; ++s) {
    const int8_t* image = io.inputs[0] + s * InputBytes(w);
    for (int32_t y = 0; y < w.output_height; ++y) {
      const Span rows = Clip(y, w.stride_height, w.pad_top, w.kernel_height, w.input_height);
      for (int32_t x = 0; x < w.output_width; ++x, output += w.channels) {
        const Span columns = Clip(x, w.stride_width, w.pad_left, w.kernel_width, w.input_width);
        rectangle.first = image + rows.start * rectangle.row_stride +
                          static_cast<int64_t>(columns.start) * w.channels;
        rectangle.rows = rows.size;
        rectangle.columns = columns.size;
        const bool average = pooling_ == Pooling::kAverage;
        (average ? kernels_->sum : kernels_->maximum)(rectangle, reduced_.data());
        const int32_t count = average ? rows.size * columns.size : 1;
        for (int32_t c = 0; c < w.channels; ++c) {
          const int32_t value = average ? RoundedQuotient(reduced_[c], count) : reduced_[c];
          output[c] = ClampToInt8(value, activation_min_, activation_max_);
        }
      }
    }
  }
}

}  // namespace sim
}  // namespace tflm_zo
