// SPDX-License-Identifier: Apache-2.0
#include "weight_step.h"

#include "perturbation.h"
#include "random.h"
#include "real_math.h"
#include "vectorised.h"

namespace tflm_zo {
namespace {

constexpr int32_t kResidualOne = 256;  // residual units in one code
// In codes. No step can move a weight by more than its whole range, so larger ones are cut to it:
// sums with residuals then stay within int32.
constexpr float kMaxStep = 2 * kMaxWeight;

inline int32_t Clamp(int32_t value, int32_t limit) {
  value = value < limit ? value : limit;
  return value > -limit ? value : -limit;
}

}  // namespace

TFLM_ZO_VECTORISED
void StepWeights(const CodeWeights& weights, const WeightRow& row, float rate,
                 const float* gradient, uint32_t rounding_key) {
  // Copies: a compiler must assume that what is written to codes changes the structures.
  int8_t* const codes = weights.codes;
  const int8_t* const initial = weights.initial;
  const int32_t headroom = weights.headroom;
  const int32_t first = row.first, stride = row.stride, count = row.count;
  for (int32_t k = 0; k < count; ++k) {
    const int32_t i = first + k * stride;
    const bool perturbed = HasHeadroom(initial[i], kMaxWeight, headroom);
    const uint32_t random = RandomWord(rounding_key, static_cast<uint32_t>(i));
    const int32_t change = StochasticRound(rate * gradient[k], random, kMaxStep);
    if (!kVectorised && change == 0) continue;
    const int32_t limit = perturbed ? kMaxWeight - headroom : kMaxWeight;
    const int32_t value = codes[i] - change;
    // A weight that started outside the limit (-128, say) stays where it is until a step moves it.
    codes[i] = static_cast<int8_t>(change == 0 ? value : Clamp(value, limit));
  }
}

TFLM_ZO_VECTORISED
void StepWeights(const FineWeights& weights, int32_t first, const InputCodes& input, float rate,
                 uint32_t rounding_key) {
  int8_t* const codes = weights.codes;
  int8_t* const residual = weights.residual;
  const int8_t* const x = input.codes;
  const int32_t limit = weights.limit, zero_point = input.zero_point, count = input.count;
  for (int32_t k = 0; k < count; ++k) {
    const int32_t i = first + k;
    const float step = rate * static_cast<float>(x[k] - zero_point);
    const uint32_t random = RandomWord(rounding_key, static_cast<uint32_t>(i));
    const int32_t total = residual[i] - StochasticRound(step * static_cast<float>(kResidualOne),
                                                        random, kMaxStep * kResidualOne);
    // To the nearest code, so that the residual stays in -128 .. 127. Division truncates towards
    // zero; with the offset the number is positive, which makes it round down.
    constexpr int32_t kOffset = 1 << 29;
    const auto positive = static_cast<uint32_t>(total + kResidualOne / 2 + kOffset);
    const int32_t carry = static_cast<int32_t>(positive / kResidualOne) - kOffset / kResidualOne;
    const int32_t value = codes[i] + carry;
    const int32_t clamped = carry == 0 ? value : Clamp(value, limit);
    codes[i] = static_cast<int8_t>(clamped);
    // At the ends of the range the residual is dropped, so that a weight pressed there comes back
    // at once.
    residual[i] = static_cast<int8_t>(clamped == value ? total - carry * kResidualOne : 0);
  }
}

void StepBias(int32_t* bias, float step, uint32_t random, int32_t limit) {
  int64_t value = static_cast<int64_t>(*bias) - StochasticRound(step, random);
  if (value > limit) value = limit;
  if (value < -static_cast<int64_t>(limit)) value = -static_cast<int64_t>(limit);
  *bias = static_cast<int32_t>(value);
}

}  // namespace tflm_zo
