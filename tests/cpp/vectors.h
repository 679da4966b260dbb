// SPDX-License-Identifier: Apache-2.0
//
// Vectors that are the same on every machine, and a digest of results: the expected digests in the
// tests were taken on x86-64, so a Cortex-M4F that computes other bits fails.
#ifndef TFLM_ZO_TESTS_VECTORS_H_
#define TFLM_ZO_TESTS_VECTORS_H_

#include <cstdint>

#include "random.h"

inline void FillCodes(int8_t* values, int32_t count, uint32_t seed) {
  for (int32_t i = 0; i < count; ++i) {
    values[i] = static_cast<int8_t>(
        static_cast<int32_t>(tflm_zo::RandomWord(seed, static_cast<uint32_t>(i)) % 255u) - 127);
  }
}

// Uniform in [-scale, scale), exactly representable.
inline float Real(uint32_t seed, int32_t i, float scale) {
  const uint32_t word = tflm_zo::RandomWord(seed, static_cast<uint32_t>(i));
  return (static_cast<float>(word >> 8) * (1.0f / 8388608.0f) - 1.0f) * scale;
}

// FNV-1a over the bytes of `count` values.
template <typename T>
uint32_t Digest(const T* values, int32_t count) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values);
  uint32_t digest = 2166136261u;
  for (uint32_t i = 0; i < static_cast<uint32_t>(count) * sizeof(T); ++i) {
    digest = (digest ^ bytes[i]) * 16777619u;
  }
  return digest;
}

#endif  // TFLM_ZO_TESTS_VECTORS_H_
