// SPDX-License-Identifier: Apache-2.0
#include "weight_step.h"

#include "real_math.h"

namespace tflm_zo {
namespace {

constexpr int32_t kResidualOne = 256;  // residual units in one code

int32_t Clamp(int32_t value, int32_t limit) {
  return value > limit ? limit : (value < -limit ? -limit : value);
}

}  // namespace

void StepWeight(int8_t* weight, float step, uint32_t random, int32_t limit) {
  const int32_t change = Clamp(StochasticRound(step, random), 2 * kMaxWeight);
  // A weight that started outside the limit (-128, say) stays where it is until a step moves it.
  if (change != 0) *weight = static_cast<int8_t>(Clamp(*weight - change, limit));
}

void StepWeight(int8_t* weight, int8_t* residual, float step, uint32_t random, int32_t limit) {
  // No step moves a weight by more than its whole range; this also keeps the sums below within
  // int32.
  const int32_t change = Clamp(StochasticRound(step * static_cast<float>(kResidualOne), random),
                               2 * kMaxWeight * kResidualOne);
  const int32_t total = *residual - change;
  // Nearest code: the residual stays in -128 .. 127. Dividing a number made positive floors.
  constexpr int32_t kOffset = 1 << 29;
  const int32_t carry =
      (total + kResidualOne / 2 + kOffset) / kResidualOne - kOffset / kResidualOne;
  if (carry == 0) {
    *residual = static_cast<int8_t>(total);
    return;
  }
  const int32_t value = *weight + carry;
  const int32_t clamped = Clamp(value, limit);
  *weight = static_cast<int8_t>(clamped);
  // At the ends of the range the residual is dropped, so that a weight pressed there comes back at
  // once.
  *residual = static_cast<int8_t>(value == clamped ? total - carry * kResidualOne : 0);
}

void StepBias(int32_t* bias, float step, uint32_t random, int32_t limit) {
  int64_t value = static_cast<int64_t>(*bias) - StochasticRound(step, random);
  if (value > limit) value = limit;
  if (value < -static_cast<int64_t>(limit)) value = -static_cast<int64_t>(limit);
  *bias = static_cast<int32_t>(value);
}

}  // namespace tflm_zo
