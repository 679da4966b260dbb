// SPDX-License-Identifier: Apache-2.0
//
// Vector operations for the inner loops: AVX2. See simd_portable.h for the contract.
#ifndef TFLM_ZO_SIM_SIMD_AVX2_H_
#define TFLM_ZO_SIM_SIMD_AVX2_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "requantize.h"

namespace tflm_zo {
namespace sim {
namespace {

struct Avx2 {
  static constexpr int kLanes = 8;
  static constexpr int kGemmRows = 4;
  static constexpr int kGemmBlocks = 1;
  static constexpr int kDepthwiseRows = 4;

  using I32 = __m256i;

  // The 8-bit multiply-add of AVX2 saturates at 16 bits, so bytes 0 and 2 of each quad and bytes 1
  // and 3 are widened to 16 bits and multiplied apart.
  struct Weights {
    __m256i even;
    __m256i odd;
  };
  using Bytes = Weights;

  struct Scale {
    __m256i multiplier;
    __m256i multiplier_odd;
    __m256i left_shift;
    __m256i right_shift;
    __m256i mask;
    __m256i half;
    __m256i offset;
    __m128i low;
    __m128i high;
  };

  static I32 Broadcast(int32_t x) { return _mm256_set1_epi32(x); }
  static I32 Load(const int32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static I32 LoadUnsigned(const uint8_t* from) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  }
  static I32 LoadSigned(const int8_t* from) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  }
  static I32 Plus(I32 a, I32 b) { return _mm256_add_epi32(a, b); }
  static I32 Subtract(I32 a, I32 b) { return _mm256_sub_epi32(a, b); }
  template <int kBits>
  static I32 ShiftLeft(I32 x) {
    return _mm256_slli_epi32(x, kBits);
  }
  static I32 Maximum(I32 a, I32 b) { return _mm256_max_epi32(a, b); }
  static I32 MultiplyAdd(I32 acc, I32 x, I32 w) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(x, w));
  }

  static Weights LoadWeights(const int8_t* from) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return {_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
  }
  static Bytes BroadcastQuad(const uint8_t* from) {
    int32_t quad;
    std::memcpy(&quad, from, sizeof(quad));
    const __m256i bytes = _mm256_set1_epi32(quad);
    return {_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(bytes, 8)};
  }
  static I32 Dot(I32 acc, const Bytes& x, const Weights& w) {
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(x.even, w.even));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(x.odd, w.odd));
  }

  static Scale FinishScale(__m256i multiplier, __m256i left_shift, __m256i right_shift,
                           int32_t offset, int32_t low, int32_t high) {
    Scale scale;
    scale.multiplier = multiplier;
    scale.multiplier_odd = _mm256_srli_epi64(multiplier, 32);
    scale.left_shift = left_shift;
    scale.right_shift = right_shift;
    const __m256i one = _mm256_set1_epi32(1);
    scale.mask = _mm256_sub_epi32(_mm256_sllv_epi32(one, right_shift), one);
    scale.half = _mm256_srli_epi32(scale.mask, 1);
    scale.offset = _mm256_set1_epi32(offset);
    scale.low = _mm_set1_epi8(static_cast<char>(low));
    scale.high = _mm_set1_epi8(static_cast<char>(high));
    return scale;
  }
  static Scale MakeScale(int32_t multiplier, int32_t left_shift, int32_t right_shift,
                         int32_t offset, int32_t low, int32_t high) {
    return FinishScale(_mm256_set1_epi32(multiplier), _mm256_set1_epi32(left_shift),
                       _mm256_set1_epi32(right_shift), offset, low, high);
  }
  static Scale LoadScale(const Requantization& r, int channel) {
    return FinishScale(Load(r.multiplier + channel), Load(r.left_shift + channel),
                       Load(r.right_shift + channel), r.output_offset, r.activation_min,
                       r.activation_max);
  }

  static I32 Requantize(I32 x, const Scale& scale) {
    x = _mm256_sllv_epi32(x, scale.left_shift);
    const __m256i nudge = _mm256_set1_epi64x(INT64_C(1) << 30);
    const __m256i even = _mm256_add_epi64(_mm256_mul_epi32(x, scale.multiplier), nudge);
    const __m256i odd =
        _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(x, 32), scale.multiplier_odd), nudge);
    x = _mm256_blend_epi32(_mm256_srli_epi64(even, 31), _mm256_add_epi64(odd, odd), 0xaa);
    const __m256i remainder = _mm256_and_si256(x, scale.mask);
    const __m256i threshold = _mm256_sub_epi32(scale.half, _mm256_srai_epi32(x, 31));
    const __m256i up = _mm256_cmpgt_epi32(remainder, threshold);  // -1 where it rounds up
    x = _mm256_sub_epi32(_mm256_srav_epi32(x, scale.right_shift), up);
    return _mm256_add_epi32(x, scale.offset);
  }

  static void Store(int32_t* to, I32 x, int count) {
    if (count >= kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x);
    } else {
      int32_t lanes[kLanes];
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), x);
      std::memcpy(to, lanes, static_cast<size_t>(count) * sizeof(int32_t));
    }
  }
  static void StoreInt8(int8_t* to, I32 x, const Scale& scale, int count) {
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    __m128i bytes = _mm_packs_epi16(words, words);
    bytes = _mm_min_epi8(_mm_max_epi8(bytes, scale.low), scale.high);
    if (count >= kLanes) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to), bytes);
    } else {
      int8_t lanes[16];
      _mm_storeu_si128(reinterpret_cast<__m128i*>(lanes), bytes);
      std::memcpy(to, lanes, static_cast<size_t>(count));
    }
  }
};

}  // namespace
}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_SIMD_AVX2_H_
