// SPDX-License-Identifier: Apache-2.0
//
// Sums and maxima over a rectangle of pixels, written once over a vector type `Simd`; see
// gemm_inl.h.
#ifndef TFLM_ZO_SIM_POOL_INL_H_
#define TFLM_ZO_SIM_POOL_INL_H_

#include "kernels.h"

namespace tflm_zo {
namespace sim {

struct SumOf {
  static constexpr int32_t kStart = 0;
  template <class Simd>
  static typename Simd::I32 Combine(typename Simd::I32 a, typename Simd::I32 b) {
    return Simd::Plus(a, b);
  }
  static int32_t Combine(int32_t a, int32_t b) { return a + b; }
};

struct MaximumOf {
  static constexpr int32_t kStart = -128;
  template <class Simd>
  static typename Simd::I32 Combine(typename Simd::I32 a, typename Simd::I32 b) {
    return Simd::Maximum(a, b);
  }
  static int32_t Combine(int32_t a, int32_t b) { return a > b ? a : b; }
};

template <class Simd, class Reduction>
static void Reduce(const PixelRectangle& p, int32_t* result) {
  int32_t c = 0;
  for (; c + Simd::kLanes <= p.channels; c += Simd::kLanes) {
    typename Simd::I32 acc = Simd::Broadcast(Reduction::kStart);
    for (int32_t y = 0; y < p.rows; ++y) {
      const int8_t* pixel = p.first + y * p.row_stride + c;
      for (int32_t x = 0; x < p.columns; ++x, pixel += p.channels) {
        acc = Reduction::template Combine<Simd>(acc, Simd::LoadSigned(pixel));
      }
    }
    Simd::Store(result + c, acc, Simd::kLanes);
  }
  for (; c < p.channels; ++c) {
    int32_t acc = Reduction::kStart;
    for (int32_t y = 0; y < p.rows; ++y) {
      const int8_t* pixel = p.first + y * p.row_stride + c;
      for (int32_t x = 0; x < p.columns; ++x, pixel += p.channels) {
        acc = Reduction::Combine(acc, *pixel);
      }
    }
    result[c] = acc;
  }
}

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_POOL_INL_H_
