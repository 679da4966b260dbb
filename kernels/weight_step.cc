// SPDX-License-Identifier: Apache-2.0
#include "weight_step.h"

#include "perturbation.h"
#include "random.h"
#include "real_math.h"
#include "vectorised.h"

namespace tflm_zo {
namespace {

constexpr int32_t kResidualOne = 256;  // residual units in one code
// No step moves a weight by more than its whole range; this also keeps sums of residuals within
// int32.
constexpr float kMaxStep = 2 * kMaxWeight;

inline int32_t Clamp(int32_t value, int32_t limit) {
  value = value < limit ? value : limit;
  return value > -limit ? value : -limit;
}

}  // namespace

TFLM_ZO_VECTORISED
void StepWeights(const WeightRow& row, int8_t* weights, const int8_t* initial, int32_t headroom,
                 float rate, const float* gradient, uint32_t rounding_key) {
  const int32_t first = row.first, stride = row.stride, count = row.count;
  for (int32_t k = 0; k < count; ++k) {
    const int32_t i = first + k * stride;
    const bool perturbed = HasHeadroom(initial[i], kMaxWeight, headroom);
    const uint32_t random = RandomWord(rounding_key, static_cast<uint32_t>(i));
    const int32_t change = StochasticRound(rate * gradient[k], random, kMaxStep);
    if (!kVectorised && change == 0) continue;
    const int32_t limit = perturbed ? kMaxWeight - headroom : kMaxWeight;
    const int32_t value = weights[i] - change;
    // A weight that started outside the limit (-128, say) stays where it is until a step moves it.
    weights[i] = static_cast<int8_t>(change == 0 ? value : Clamp(value, limit));
  }
}

TFLM_ZO_VECTORISED
void StepWeights(int32_t first, int32_t count, int8_t* weights, int8_t* residual, int32_t limit,
                 float rate, const int8_t* input, int32_t zero_point, uint32_t rounding_key) {
  for (int32_t k = 0; k < count; ++k) {
    const int32_t i = first + k;
    const float step = rate * static_cast<float>(input[k] - zero_point);
    const uint32_t random = RandomWord(rounding_key, static_cast<uint32_t>(i));
    const int32_t total = residual[i] - StochasticRound(step * static_cast<float>(kResidualOne),
                                                        random, kMaxStep * kResidualOne);
    // Nearest code: the residual stays in -128 .. 127. Dividing a number made positive floors.
    constexpr int32_t kOffset = 1 << 29;
    const auto positive = static_cast<uint32_t>(total + kResidualOne / 2 + kOffset);
    const int32_t carry = static_cast<int32_t>(positive / kResidualOne) - kOffset / kResidualOne;
    const int32_t value = weights[i] + carry;
    const int32_t clamped = carry == 0 ? value : Clamp(value, limit);
    weights[i] = static_cast<int8_t>(clamped);
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
