// SPDX-License-Identifier: Apache-2.0
#include "window.h"

#include <algorithm>
#include <cstring>

namespace tflm_zo {
namespace sim {
namespace {

constexpr int64_t kGroupBytes = 16 * 1024;
constexpr int64_t kMaxImageBytes = INT64_C(1) << 30;

void CopyUnsigned(const int8_t* from, int64_t count, uint8_t* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(from[i]) ^ 0x80;
}

}  // namespace

bool IsValid(const Window& w) {
  const int32_t sizes[] = {w.input_height,   w.input_width,   w.channels,     w.kernel_height,
                           w.kernel_width,   w.stride_height, w.stride_width, w.dilation_height,
                           w.dilation_width, w.output_height, w.output_width};
  for (int32_t size : sizes) {
    if (size <= 0 || size > (1 << 20)) return false;
  }
  if (w.pad_top < 0 || w.pad_left < 0) return false;
  const int64_t rows = (w.output_height - INT64_C(1)) * w.stride_height +
                       (w.kernel_height - INT64_C(1)) * w.dilation_height + 1;
  const int64_t columns = (w.output_width - INT64_C(1)) * w.stride_width +
                          (w.kernel_width - INT64_C(1)) * w.dilation_width + 1;
  return rows < kMaxImageBytes && columns < kMaxImageBytes / rows &&
         w.channels < kMaxImageBytes / (rows * columns) &&
         static_cast<int64_t>(w.input_height) * w.input_width < kMaxImageBytes / w.channels &&
         static_cast<int64_t>(w.output_height) * w.output_width < kMaxImageBytes;
}

int64_t InputBytes(const Window& w) {
  return static_cast<int64_t>(w.input_height) * w.input_width * w.channels;
}

int32_t PaddedHeight(const Window& w) {
  return (w.output_height - 1) * w.stride_height + (w.kernel_height - 1) * w.dilation_height + 1;
}

int32_t PaddedWidth(const Window& w) {
  return (w.output_width - 1) * w.stride_width + (w.kernel_width - 1) * w.dilation_width + 1;
}

int64_t PaddedBytes(const Window& w) {
  return static_cast<int64_t>(PaddedHeight(w)) * PaddedWidth(w) * w.channels;
}

void CopyPadded(const Window& w, const int8_t* input, uint8_t fill, uint8_t* padded) {
  const int32_t height = PaddedHeight(w);
  const int64_t row_bytes = static_cast<int64_t>(PaddedWidth(w)) * w.channels;
  const int64_t input_row_bytes = static_cast<int64_t>(w.input_width) * w.channels;
  const int32_t first_row = std::min(w.pad_top, height);
  const int32_t end_row = std::min(height, w.pad_top + w.input_height);
  const int64_t left = std::min(row_bytes, static_cast<int64_t>(w.pad_left) * w.channels);
  const int64_t middle = std::min(input_row_bytes, row_bytes - left);
  const int64_t right = row_bytes - left - middle;

  std::memset(padded, fill, static_cast<size_t>(first_row * row_bytes));
  uint8_t* to = padded + first_row * row_bytes;
  if (middle == row_bytes && middle == input_row_bytes) {
    CopyUnsigned(input, (end_row - first_row) * row_bytes, to);
  } else {
    for (int32_t y = first_row; y < end_row; ++y, to += row_bytes, input += input_row_bytes) {
      std::memset(to, fill, static_cast<size_t>(left));
      CopyUnsigned(input, middle, to + left);
      std::memset(to + left + middle, fill, static_cast<size_t>(right));
    }
  }
  std::memset(padded + end_row * row_bytes, fill,
              static_cast<size_t>((height - end_row) * row_bytes));
}

std::vector<int32_t> PixelOffsets(const Window& w, int32_t samples) {
  std::vector<int32_t> offsets;
  offsets.reserve(static_cast<size_t>(samples) * OutputPixels(w));
  const int64_t row_bytes = static_cast<int64_t>(PaddedWidth(w)) * w.channels;
  for (int32_t s = 0; s < samples; ++s) {
    for (int32_t y = 0; y < w.output_height; ++y) {
      for (int32_t x = 0; x < w.output_width; ++x) {
        offsets.push_back(
            static_cast<int32_t>(s * PaddedBytes(w) + y * w.stride_height * row_bytes +
                                 static_cast<int64_t>(x) * w.stride_width * w.channels));
      }
    }
  }
  return offsets;
}

std::vector<int32_t> TapOffsets(const Window& w) {
  std::vector<int32_t> offsets;
  for (int32_t y = 0; y < w.kernel_height; ++y) {
    for (int32_t x = 0; x < w.kernel_width; ++x) {
      const int64_t pixel = static_cast<int64_t>(y) * w.dilation_height * PaddedWidth(w) +
                            static_cast<int64_t>(x) * w.dilation_width;
      offsets.push_back(static_cast<int32_t>(pixel * w.channels));
    }
  }
  return offsets;
}

int32_t SamplesPerGroup(const Window& window) {
  return static_cast<int32_t>(std::max<int64_t>(1, kGroupBytes / PaddedBytes(window)));
}

}  // namespace sim
}  // namespace tflm_zo
