// SPDX-License-Identifier: Apache-2.0
//
// The elementwise sum, written once over a vector type `Simd`; see gemm_inl.h.
#ifndef TFLM_ZO_SIM_ADD_INL_H_
#define TFLM_ZO_SIM_ADD_INL_H_

#include "kernels.h"

namespace tflm_zo {
namespace sim {

static inline int8_t AddElement(const AddProblem& p, int8_t larger, int8_t smaller) {
  const int32_t half = (larger - p.larger_zero_point) * (1 << (kAddHeadroomBits - 1));
  const int32_t shifted = (smaller - p.smaller_zero_point) * (1 << kAddHeadroomBits);
  const int32_t sum = half + Rescale(shifted, p.smaller_multiplier, 0, p.smaller_right_shift);
  const int32_t scaled = Rescale(sum, p.output_multiplier, 0, p.output_right_shift);
  return ClampToInt8(scaled + p.output_offset, p.activation_min, p.activation_max);
}

template <class Simd>
static void Add(const AddProblem& p, const int8_t* larger, const int8_t* smaller, int64_t count,
                int8_t* output) {
  using I32 = typename Simd::I32;
  const typename Simd::Scale smaller_scale =
      Simd::MakeScale(p.smaller_multiplier, kAddHeadroomBits, p.smaller_right_shift, 0, -128, 127);
  const typename Simd::Scale output_scale =
      Simd::MakeScale(p.output_multiplier, 0, p.output_right_shift, p.output_offset,
                      p.activation_min, p.activation_max);
  const I32 larger_zero = Simd::Broadcast(p.larger_zero_point);
  const I32 smaller_zero = Simd::Broadcast(p.smaller_zero_point);

  int64_t i = 0;
  for (; i + Simd::kLanes <= count; i += Simd::kLanes) {
    const I32 x = Simd::Subtract(Simd::LoadSigned(larger + i), larger_zero);
    const I32 y = Simd::Subtract(Simd::LoadSigned(smaller + i), smaller_zero);
    const I32 sum = Simd::Plus(Simd::template ShiftLeft<kAddHeadroomBits - 1>(x),
                               Simd::Requantize(y, smaller_scale));
    Simd::StoreInt8(output + i, Simd::Requantize(sum, output_scale), output_scale, Simd::kLanes);
  }
  for (; i < count; ++i) output[i] = AddElement(p, larger[i], smaller[i]);
}

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_ADD_INL_H_
