// SPDX-License-Identifier: Apache-2.0
//
// Vector operations for the inner loops: NEON, which every aarch64 processor has. See
// simd_portable.h for the contract.
#ifndef TFLM_ZO_SIM_SIMD_NEON_H_
#define TFLM_ZO_SIM_SIMD_NEON_H_

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "requantize.h"

namespace tflm_zo {
namespace sim {
namespace {

struct Neon {
  static constexpr int kLanes = 4;
  static constexpr int kGemmRows = 4;
  static constexpr int kGemmBlocks = 1;
  static constexpr int kDepthwiseRows = 4;

  using I32 = int32x4_t;

  // Widened to 16 bits: bytes 0 and 2 of each quad, and bytes 1 and 3.
  struct Weights {
    int16x8_t even;
    int16x8_t odd;
  };
  struct Bytes {
    int16x4_t even;
    int16x4_t odd;
  };

  struct Scale {
    int32x4_t multiplier;
    int32x4_t left_shift;
    int32x4_t right_shift;  // negative: NEON shifts to the left
    int32x4_t offset;
    int8x8_t low;
    int8x8_t high;
  };

  static I32 Broadcast(int32_t x) { return vdupq_n_s32(x); }
  static I32 Load(const int32_t* from) { return vld1q_s32(from); }
  static I32 LoadUnsigned(const uint8_t* from) {
    return vreinterpretq_s32_u32(
        vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(Four(from))))));
  }
  static I32 LoadSigned(const int8_t* from) {
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(Four(from)))));
  }
  static I32 Plus(I32 a, I32 b) { return vaddq_s32(a, b); }
  static I32 Subtract(I32 a, I32 b) { return vsubq_s32(a, b); }
  template <int kBits>
  static I32 ShiftLeft(I32 x) {
    return vshlq_n_s32(x, kBits);
  }
  static I32 Maximum(I32 a, I32 b) { return vmaxq_s32(a, b); }
  static I32 MultiplyAdd(I32 acc, I32 x, I32 w) { return vmlaq_s32(acc, x, w); }

  static Weights LoadWeights(const int8_t* from) {
    const int16x8_t pairs = vreinterpretq_s16_s8(vld1q_s8(from));
    return {vshrq_n_s16(vshlq_n_s16(pairs, 8), 8), vshrq_n_s16(pairs, 8)};
  }
  static Bytes BroadcastQuad(const uint8_t* from) {
    const uint16x4_t pairs = vreinterpret_u16_u32(Four(from));
    return {vreinterpret_s16_u16(vand_u16(pairs, vdup_n_u16(0xff))),
            vreinterpret_s16_u16(vshr_n_u16(pairs, 8))};
  }
  static I32 Dot(I32 acc, const Bytes& x, const Weights& w) {
    int32x4_t first = vmull_s16(vget_low_s16(w.even), x.even);
    int32x4_t second = vmull_s16(vget_high_s16(w.even), x.even);
    first = vmlal_s16(first, vget_low_s16(w.odd), x.odd);
    second = vmlal_s16(second, vget_high_s16(w.odd), x.odd);
    return vaddq_s32(acc, vpaddq_s32(first, second));
  }

  static Scale FinishScale(int32x4_t multiplier, int32x4_t left_shift, int32x4_t right_shift,
                           int32_t offset, int32_t low, int32_t high) {
    return {multiplier,
            left_shift,
            vnegq_s32(right_shift),
            vdupq_n_s32(offset),
            vdup_n_s8(static_cast<int8_t>(low)),
            vdup_n_s8(static_cast<int8_t>(high))};
  }
  static Scale MakeScale(int32_t multiplier, int32_t left_shift, int32_t right_shift,
                         int32_t offset, int32_t low, int32_t high) {
    return FinishScale(vdupq_n_s32(multiplier), vdupq_n_s32(left_shift), vdupq_n_s32(right_shift),
                       offset, low, high);
  }
  static Scale LoadScale(const Requantization& r, int channel) {
    return FinishScale(Load(r.multiplier + channel), Load(r.left_shift + channel),
                       Load(r.right_shift + channel), r.output_offset, r.activation_min,
                       r.activation_max);
  }

  static I32 Requantize(I32 x, const Scale& scale) {
    x = vqrdmulhq_s32(vshlq_s32(x, scale.left_shift), scale.multiplier);
    // A rounding shift takes ties up; one less brings those below zero down, and nothing else.
    const int32x4_t tie = vshrq_n_s32(vandq_s32(x, scale.right_shift), 31);
    x = vrshlq_s32(vqaddq_s32(x, tie), scale.right_shift);
    return vaddq_s32(x, scale.offset);
  }

  static void Store(int32_t* to, I32 x, int count) {
    if (count >= kLanes) {
      vst1q_s32(to, x);
    } else {
      int32_t lanes[kLanes];
      vst1q_s32(lanes, x);
      std::memcpy(to, lanes, static_cast<size_t>(count) * sizeof(int32_t));
    }
  }
  static void StoreInt8(int8_t* to, I32 x, const Scale& scale, int count) {
    const int16x4_t words = vqmovn_s32(x);
    int8x8_t bytes = vqmovn_s16(vcombine_s16(words, words));
    bytes = vmin_s8(vmax_s8(bytes, scale.low), scale.high);
    const uint32_t lanes = vget_lane_u32(vreinterpret_u32_s8(bytes), 0);
    std::memcpy(to, &lanes, static_cast<size_t>(count < kLanes ? count : kLanes));
  }

 private:
  // The same four bytes twice.
  static uint32x2_t Four(const void* from) {
    uint32_t bytes;
    std::memcpy(&bytes, from, sizeof(bytes));
    return vdup_n_u32(bytes);
  }
};

}  // namespace
}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_SIMD_NEON_H_
