// SPDX-License-Identifier: Apache-2.0
//
// Every step rounds as the fixed-point arithmetic of TFLite Micro's reference kernel does. Qm.n is
// a signed number with m integer and n fractional bits.
#include "softmax.h"

#include <algorithm>

#include "requantize.h"

namespace tflm_zo {
namespace sim {
namespace {

constexpr int32_t kOneQ31 = INT32_MAX;  // 1 in Q0.31, as near as it gets
constexpr int32_t kDiffFractionBits = 26;
constexpr int32_t kSumIntegerBits = 12;
constexpr int32_t kOutputBits = 8;

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

// exp(x) for x <= 0 in Q5.26, as Q0.31.
int32_t ExpOfNegative(int32_t x) {
  if (x == 0) return kOneQ31;
  constexpr int32_t kQuarter = INT32_C(1) << (kDiffFractionBits - 2);
  // x = small - multiple of 1/4, with small in [-1/4, 0).
  const int32_t small = (x & (kQuarter - 1)) - kQuarter;
  int32_t result = ExpOfSmall(SaturatingShiftLeft(small, 31 - kDiffFractionBits));
  const int32_t rest = small - x;
  // exp(-2^k) for k = -2, -1, ..., 4, one factor for each bit of the rest.
  constexpr int32_t kFactors[] = {1672461947, 1302514674, 790015084, 290630308,
                                  39332535,   720401,     242};
  int32_t bit = kQuarter;
  for (int32_t factor : kFactors) {
    if ((rest & bit) != 0) result = RoundingHighMultiply(result, factor);
    bit = static_cast<int32_t>(static_cast<uint32_t>(bit) << 1);
  }
  return result;
}

// 1 / (1 + x) for x in [0, 1) in Q0.31, as Q0.31: three Newton-Raphson steps for the reciprocal of
// (1 + x) / 2, started from 48/17 - 32/17 * (1 + x) / 2.
int32_t ReciprocalOfOnePlus(int32_t x) {
  constexpr int32_t k48Over17 = 1515870810;        // Q2.29
  constexpr int32_t kMinus32Over17 = -1010580540;  // Q2.29
  constexpr int32_t kOneQ29 = INT32_C(1) << 29;
  const int32_t half = static_cast<int32_t>((static_cast<int64_t>(x) + kOneQ31 + 1) / 2);
  int32_t reciprocal = k48Over17 + RoundingHighMultiply(kMinus32Over17, half);
  for (int i = 0; i < 3; ++i) {
    const int32_t error = kOneQ29 - RoundingHighMultiply(reciprocal, half);
    reciprocal += SaturatingShiftLeft(RoundingHighMultiply(error, reciprocal), 2);
  }
  return SaturatingShiftLeft(reciprocal, 1);
}

// Number of zero bits above the highest one of x > 0.
int32_t LeadingZeros(uint32_t x) {
  int32_t zeros = 0;
  for (; (x & 0x80000000u) == 0; x <<= 1) ++zeros;
  return zeros;
}

}  // namespace

SoftmaxLayer::SoftmaxLayer(int32_t rows, int32_t depth, int32_t multiplier, int32_t left_shift,
                           int32_t diff_min)
    : rows_(rows), depth_(depth), diff_limit_(-diff_min) {
  for (int32_t below = 0; below < 256; ++below) {
    if (below > diff_limit_) {
      exp_[below] = 0;
      summand_[below] = 0;
      continue;
    }
    const int32_t scaled = Rescale(-below, multiplier, left_shift, 0);
    exp_[below] = ExpOfNegative(scaled);
    summand_[below] = RoundingShiftRight(exp_[below], kSumIntegerBits);
  }
}

void SoftmaxLayer::Run(const LayerIo& io) {
  const int8_t* input = io.inputs[0];
  int8_t* output = io.output;
  const int64_t rows = static_cast<int64_t>(rows_) * io.samples;
  for (int64_t row = 0; row < rows; ++row, input += depth_, output += depth_) {
    const int32_t maximum = *std::max_element(input, input + depth_);
    int32_t sum = 0;
    for (int32_t c = 0; c < depth_; ++c) sum += summand_[maximum - input[c]];

    // sum = (1 + fraction) * 2^exponent with fraction in [0, 1).
    const int32_t zeros = LeadingZeros(static_cast<uint32_t>(sum));
    const int32_t exponent = kSumIntegerBits - zeros;
    const uint32_t normalized = static_cast<uint32_t>(sum) << zeros;
    const int32_t fraction = static_cast<int32_t>(normalized - (UINT32_C(1) << 31));
    const int32_t scale = ReciprocalOfOnePlus(fraction);
    const int32_t shift = exponent + 31 - kOutputBits;
    for (int32_t c = 0; c < depth_; ++c) {
      const int32_t below = maximum - input[c];
      if (below > diff_limit_) {
        output[c] = -128;
        continue;
      }
      const int32_t probability =
          RoundingShiftRight(RoundingHighMultiply(scale, exp_[below]), shift);
      output[c] = ClampToInt8(probability - 128, -128, 127);
    }
  }
}

}  // namespace sim
}  // namespace tflm_zo
