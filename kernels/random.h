// SPDX-License-Identifier: Apache-2.0
//
// Counter-based random numbers: word k of a stream is a function of (key, k) alone.
//
// Directions are never stored, they are made again from their seed. A counter-based generator makes
// any element directly, so a direction can be regenerated for one layer, one channel or many
// queries side by side, in C++ and in a vectorised simulator, and always agrees to the bit. (A
// sequential xorshift would have to be run from the start.)
#ifndef TFLM_ZO_KERNELS_RANDOM_H_
#define TFLM_ZO_KERNELS_RANDOM_H_

#include <cstdint>

namespace tflm_zo {

// Odd 32-bit constant nearest to 2^32 / golden ratio: consecutive counters land far apart.
constexpr uint32_t kGoldenRatio = 0x9E3779B9u;

// Bijective mixing of 32 bits (xor-shift-multiply with the "lowbias32" constants of C. Wellons).
inline uint32_t Mix32(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  x ^= x >> 16;
  return x;
}

// What a stream is for; part of its key, so that no two purposes share random numbers.
enum class Stream : uint32_t {
  kStep = 1,             // seed of a training step
  kWeightDirection = 2,  // signs of a weight perturbation
  kUpdateRounding = 3,   // stochastic rounding of a weight-perturbation update
  kHeadRounding = 4,     // stochastic rounding of an exact-head update
  kNodeDirection = 5,    // signs of a node perturbation
  kNodeRounding = 6,     // stochastic rounding of a node-perturbation update
  kMask = 7,             // random sparse masks
  kShuffle = 8,          // order of the samples (host)
};

// Key of the stream (purpose, a, b) under `seed`.
inline uint32_t StreamKey(uint32_t seed, Stream stream, uint32_t a, uint32_t b) {
  uint32_t key = Mix32(seed + static_cast<uint32_t>(stream) * kGoldenRatio);
  key = Mix32(key ^ (a * kGoldenRatio + 0x7F4A7C15u));
  return Mix32(key ^ (b * kGoldenRatio + 0x85EBCA6Bu));
}

inline uint32_t RandomWord(uint32_t key, uint32_t counter) {
  return Mix32(key + counter * kGoldenRatio);
}

// 32 Rademacher signs: bit j of the word for elements 32 * block .. 32 * block + 31.
inline uint32_t SignWord(uint32_t key, uint32_t block) { return RandomWord(key, block); }

inline int32_t SignOf(uint32_t word, uint32_t bit) { return ((word >> bit) & 1u) ? 1 : -1; }

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_RANDOM_H_
