// SPDX-License-Identifier: Apache-2.0
#include "real_math.h"

namespace tflm_zo {

// Range reduction x = n ln 2 + r, |r| <= ln(2)/2, then the Taylor polynomial of degree 6.
float ExpNonPositive(float x) {
  if (x < -87.0f) x = -87.0f;
  const int32_t n = FloorToInt(x * 1.44269504f + 0.5f);
  const float nf = static_cast<float>(n);
  // ln 2 in two parts: the first has few bits, so nf * 0.693359375 is exact.
  const float r = (x - nf * 0.693359375f) - nf * -2.12194440e-4f;
  float p = 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * BitsToFloat(static_cast<uint32_t>(n + 127) << 23);
}

// x = 2^e m with m in [sqrt(1/2), sqrt(2)), then the odd series in s = (m - 1) / (m + 1).
float LogPositive(float x) {
  uint32_t bits = FloatToBits(x);
  int32_t exponent = static_cast<int32_t>(bits >> 23) - 127;
  float mantissa = BitsToFloat((bits & 0x007FFFFFu) | 0x3F800000u);
  if (mantissa > 1.41421356f) {
    mantissa = mantissa * 0.5f;
    exponent += 1;
  }
  const float s = (mantissa - 1.0f) / (mantissa + 1.0f);
  const float z = s * s;
  float p = 1.0f / 9.0f;
  p = p * z + 1.0f / 7.0f;
  p = p * z + 1.0f / 5.0f;
  p = p * z + 1.0f / 3.0f;
  p = p * z + 1.0f;
  return static_cast<float>(exponent) * 0.693147182f + 2.0f * s * p;
}

}  // namespace tflm_zo
