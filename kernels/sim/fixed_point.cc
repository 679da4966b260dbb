// SPDX-License-Identifier: Apache-2.0
#include "fixed_point.h"

#include <algorithm>

#include "requantize.h"

namespace tflm_zo {
namespace sim {
namespace {

constexpr int32_t kOneQ29 = INT32_C(1) << 29;

int32_t SaturatingShiftLeft(int32_t x, int32_t bits) {
  const int64_t shifted = static_cast<int64_t>(x) * (INT64_C(1) << bits);
  return static_cast<int32_t>(std::clamp<int64_t>(shifted, INT32_MIN, INT32_MAX));
}

// exp(x) for x in [-1/4, 0), Q0.31: the Taylor series around -1/8 up to the fourth power.
int32_t ExpOfSmall(int32_t x) {
  constexpr int32_t kExpOfMinusEighth = 1895147668;
  constexpr int32_t kThird = 715827883;
  const int32_t d = x + (INT32_C(1) << 28);
  const int32_t d2 = RoundingHighMultiply(d, d);
  const int32_t d3 = RoundingHighMultiply(d2, d);
  const int32_t d4 = RoundingHighMultiply(d2, d2);
  const int32_t tail =
      RoundingShiftRight(RoundingHighMultiply(RoundingShiftRight(d4, 2) + d3, kThird) + d2, 1);
  return kExpOfMinusEighth + RoundingHighMultiply(d + tail, kExpOfMinusEighth);
}

// 2 / (1 + x) for x in [0, 1) in Q0.31, as Q2.29: three Newton-Raphson steps for the reciprocal of
// (1 + x) / 2, started from 48/17 - 32/17 * (1 + x) / 2.
int32_t TwiceReciprocalOfOnePlus(int32_t x) {
  constexpr int32_t k48Over17 = 1515870810;        // Q2.29
  constexpr int32_t kMinus32Over17 = -1010580540;  // Q2.29
  const int32_t half = static_cast<int32_t>((static_cast<int64_t>(x) + kOneQ31 + 1) / 2);
  int32_t reciprocal = k48Over17 + RoundingHighMultiply(kMinus32Over17, half);
  for (int i = 0; i < 3; ++i) {
    const int32_t error = kOneQ29 - RoundingHighMultiply(reciprocal, half);
    reciprocal += SaturatingShiftLeft(RoundingHighMultiply(error, reciprocal), 2);
  }
  return reciprocal;
}

}  // namespace

int32_t ExpOfNegative(int32_t x, int32_t fraction_bits) {
  if (x == 0) return kOneQ31;
  const int32_t quarter = INT32_C(1) << (fraction_bits - 2);
  // x = small - multiple of 1/4, with small in [-1/4, 0).
  const int32_t small = (x & (quarter - 1)) - quarter;
  int32_t result = ExpOfSmall(SaturatingShiftLeft(small, 31 - fraction_bits));
  const int32_t rest = small - x;
  // exp(-2^k) for k = -2, -1, ..., 4, one factor for each bit of the rest.
  constexpr int32_t kFactors[] = {1672461947, 1302514674, 790015084, 290630308,
                                  39332535,   720401,     242};
  int32_t bit = quarter;
  for (int32_t factor : kFactors) {
    if ((rest & bit) != 0) result = RoundingHighMultiply(result, factor);
    bit = static_cast<int32_t>(static_cast<uint32_t>(bit) << 1);
  }
  return result;
}

int32_t ReciprocalOfOnePlus(int32_t x) {
  return SaturatingShiftLeft(TwiceReciprocalOfOnePlus(x), 1);
}

int32_t OneMinusOverOnePlus(int32_t x) {
  return SaturatingShiftLeft(TwiceReciprocalOfOnePlus(x) - kOneQ29, 2);
}

}  // namespace sim
}  // namespace tflm_zo
