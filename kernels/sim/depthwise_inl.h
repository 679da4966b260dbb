// SPDX-License-Identifier: Apache-2.0
//
// The depthwise product, written once over a vector type `Simd`; see gemm_inl.h.
#ifndef TFLM_ZO_SIM_DEPTHWISE_INL_H_
#define TFLM_ZO_SIM_DEPTHWISE_INL_H_

#include "kernels.h"

namespace tflm_zo {
namespace sim {

// `rows` (at most Simd::kDepthwiseRows) pixels by one vector of channels.
template <class Simd>
static inline void DepthwiseTile(const DepthwiseProblem& p, const typename Simd::Scale& scale,
                                 const int32_t* weights, int first_pixel, int rows, int channel) {
  using I32 = typename Simd::I32;
  constexpr int kRows = Simd::kDepthwiseRows;
  const uint8_t* row[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    row[r] = p.input + p.pixel_offsets[first_pixel + (r < rows ? r : rows - 1)] + channel;
  }
  const I32 bias = Simd::Load(p.bias + channel);
  I32 acc[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) acc[r] = bias;

  for (int t = 0; t < p.taps; ++t) {
    const I32 w = Simd::Load(weights + t * kChannelBlock);
    const int32_t tap = p.tap_offsets[t];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      acc[r] = Simd::MultiplyAdd(acc[r], Simd::LoadUnsigned(row[r] + tap), w);
    }
  }

  const int count = p.channels - channel;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) break;
    const int64_t at = static_cast<int64_t>(first_pixel + r) * p.channels + channel;
    if (p.accumulators != nullptr) Simd::Store(p.accumulators + at, acc[r], count);
    Simd::StoreInt8(p.output + at, Simd::Requantize(acc[r], scale), scale, count);
  }
}

template <class Simd>
static void Depthwise(const DepthwiseProblem& p) {
  for (int channel = 0; channel < p.channels; channel += Simd::kLanes) {
    const typename Simd::Scale scale = Simd::LoadScale(p.requantization, channel);
    const int block = channel / kChannelBlock;
    const int32_t* weights =
        p.weights + static_cast<int64_t>(block) * p.taps * kChannelBlock + channel % kChannelBlock;
    int pixel = 0;
    for (; pixel + Simd::kDepthwiseRows <= p.pixels; pixel += Simd::kDepthwiseRows) {
      DepthwiseTile<Simd>(p, scale, weights, pixel, Simd::kDepthwiseRows, channel);
    }
    if (pixel < p.pixels) {
      DepthwiseTile<Simd>(p, scale, weights, pixel, p.pixels - pixel, channel);
    }
  }
}

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_DEPTHWISE_INL_H_
