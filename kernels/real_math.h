// SPDX-License-Identifier: Apache-2.0
//
// Exponential, logarithm and rounding in single precision, the same to the bit on every IEEE-754
// target.
//
// The C library's expf and logf differ between platforms; what feeds a weight update must not.
// Everything here is additions, multiplications and divisions in a fixed order, to be compiled with
// -ffp-contract=off.
#ifndef TFLM_ZO_KERNELS_REAL_MATH_H_
#define TFLM_ZO_KERNELS_REAL_MATH_H_

#include <cstdint>
#include <cstring>

namespace tflm_zo {

inline float BitsToFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t FloatToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Largest integer not above x, for |x| < 2^31.
inline int32_t FloorToInt(float x) {
  const int32_t truncated = static_cast<int32_t>(x);
  return truncated - (static_cast<float>(truncated) > x);
}

// exp(x) for x <= 0, relative error below 3e-7; inputs under -87 give exp(-87).
float ExpNonPositive(float x);

// Natural logarithm of a normal positive x, absolute error below 4e-7 for x in [1, 2^20].
float LogPositive(float x);

// Rounds x to one of its two neighbouring integers, up with a probability equal to the fractional
// part (to 24 bits): the expectation is x, so steps far below one code still count. x is limited to
// +-limit first, a whole number. No branches, so loops over it are vectorised.
inline int32_t StochasticRound(float x, uint32_t random, float limit = 1073741824.0f) {
  // Positive floats are in the order of their bits. (Comparing floats would become branches.)
  const uint32_t sign = FloatToBits(x) & 0x80000000u;
  const uint32_t magnitude = FloatToBits(x) ^ sign;
  const uint32_t largest = FloatToBits(limit);
  x = BitsToFloat((magnitude < largest ? magnitude : largest) | sign);
  const int32_t floor = FloorToInt(x);
  const float fraction = x - static_cast<float>(floor);
  const float uniform =
      static_cast<float>(static_cast<int32_t>(random >> 8)) * (1.0f / 16777216.0f);
  return floor + (uniform < fraction);
}

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_REAL_MATH_H_
