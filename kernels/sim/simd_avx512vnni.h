// SPDX-License-Identifier: Apache-2.0
//
// Vector operations for the inner loops: AVX-512 with VNNI. See simd_portable.h for the contract.
#ifndef TFLM_ZO_SIM_SIMD_AVX512VNNI_H_
#define TFLM_ZO_SIM_SIMD_AVX512VNNI_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "requantize.h"

namespace tflm_zo {
namespace sim {
namespace {

struct Avx512Vnni {
  static constexpr int kLanes = 16;
  static constexpr int kGemmRows = 8;
  static constexpr int kGemmBlocks = 2;
  static constexpr int kDepthwiseRows = 8;

  using I32 = __m512i;
  using Weights = __m512i;
  using Bytes = __m512i;

  struct Scale {
    __m512i multiplier;      // even lanes, as vpmuldq reads them
    __m512i multiplier_odd;  // odd lanes, moved to the even positions
    __m512i left_shift;
    __m512i right_shift;
    __m512i mask;  // 2^right_shift - 1
    __m512i half;  // mask / 2
    __m512i offset;
    __m128i low;
    __m128i high;
  };

  static I32 Broadcast(int32_t x) { return _mm512_set1_epi32(x); }
  static I32 Load(const int32_t* from) { return _mm512_loadu_si512(from); }
  static I32 LoadUnsigned(const uint8_t* from) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static I32 LoadSigned(const int8_t* from) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static I32 Plus(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
  static I32 Subtract(I32 a, I32 b) { return _mm512_sub_epi32(a, b); }
  template <int kBits>
  static I32 ShiftLeft(I32 x) {
    return _mm512_slli_epi32(x, kBits);
  }
  static I32 Maximum(I32 a, I32 b) { return _mm512_max_epi32(a, b); }
  static I32 MultiplyAdd(I32 acc, I32 x, I32 w) { return _mm512_dpwssd_epi32(acc, x, w); }

  static Weights LoadWeights(const int8_t* from) { return _mm512_loadu_si512(from); }
  static Bytes BroadcastQuad(const uint8_t* from) {
    int32_t quad;
    std::memcpy(&quad, from, sizeof(quad));
    return _mm512_set1_epi32(quad);
  }
  static I32 Dot(I32 acc, Bytes x, Weights w) { return _mm512_dpbusd_epi32(acc, x, w); }

  static Scale FinishScale(__m512i multiplier, __m512i left_shift, __m512i right_shift,
                           int32_t offset, int32_t low, int32_t high) {
    Scale scale;
    scale.multiplier = multiplier;
    scale.multiplier_odd = _mm512_srli_epi64(multiplier, 32);
    scale.left_shift = left_shift;
    scale.right_shift = right_shift;
    const __m512i one = _mm512_set1_epi32(1);
    scale.mask = _mm512_sub_epi32(_mm512_sllv_epi32(one, right_shift), one);
    scale.half = _mm512_srli_epi32(scale.mask, 1);
    scale.offset = _mm512_set1_epi32(offset);
    scale.low = _mm_set1_epi8(static_cast<char>(low));
    scale.high = _mm_set1_epi8(static_cast<char>(high));
    return scale;
  }
  static Scale MakeScale(int32_t multiplier, int32_t left_shift, int32_t right_shift,
                         int32_t offset, int32_t low, int32_t high) {
    return FinishScale(_mm512_set1_epi32(multiplier), _mm512_set1_epi32(left_shift),
                       _mm512_set1_epi32(right_shift), offset, low, high);
  }
  static Scale LoadScale(const Requantization& r, int channel) {
    return FinishScale(Load(r.multiplier + channel), Load(r.left_shift + channel),
                       Load(r.right_shift + channel), r.output_offset, r.activation_min,
                       r.activation_max);
  }

  static I32 Requantize(I32 x, const Scale& scale) {
    x = _mm512_sllv_epi32(x, scale.left_shift);
    // (x * multiplier + 2^30) >> 31 in 64 bits; only the low half of the result is kept, so the
    // shift may be a logical one.
    const __m512i nudge = _mm512_set1_epi64(INT64_C(1) << 30);
    const __m512i even = _mm512_add_epi64(_mm512_mul_epi32(x, scale.multiplier), nudge);
    const __m512i odd = _mm512_add_epi64(
        _mm512_mul_epi32(_mm512_shuffle_epi32(x, _MM_PERM_DDBB), scale.multiplier_odd), nudge);
    x = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 31), _mm512_add_epi64(odd, odd));
    // Ties away from zero: a negative number needs a remainder above one half plus one.
    const __m512i remainder = _mm512_and_si512(x, scale.mask);
    const __m512i threshold = _mm512_sub_epi32(scale.half, _mm512_srai_epi32(x, 31));
    const __mmask16 up = _mm512_cmpgt_epi32_mask(remainder, threshold);
    x = _mm512_srav_epi32(x, scale.right_shift);
    x = _mm512_mask_sub_epi32(x, up, x, _mm512_set1_epi32(-1));
    return _mm512_add_epi32(x, scale.offset);
  }

  static void Store(int32_t* to, I32 x, int count) {
    const __mmask16 lanes = count >= kLanes ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
    _mm512_mask_storeu_epi32(to, lanes, x);
  }
  static void StoreInt8(int8_t* to, I32 x, const Scale& scale, int count) {
    __m128i bytes = _mm512_cvtsepi32_epi8(x);
    bytes = _mm_min_epi8(_mm_max_epi8(bytes, scale.low), scale.high);
    if (count >= kLanes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    } else {
      _mm_mask_storeu_epi8(to, static_cast<__mmask16>((1u << count) - 1), bytes);
    }
  }
};

}  // namespace
}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_SIMD_AVX512VNNI_H_
