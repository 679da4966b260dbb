// SPDX-License-Identifier: Apache-2.0
#include "softmax.h"

#include <algorithm>

#include "fixed_point.h"
#include "requantize.h"

namespace tflm_zo {
namespace sim {
namespace {

constexpr int32_t kSumIntegerBits = 12;
constexpr int32_t kOutputBits = 8;

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
    exp_[below] = ExpOfNegative(scaled, kSoftmaxDiffFractionBits);
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
