// SPDX-License-Identifier: Apache-2.0
#include "head.h"

#include "random.h"
#include "real_math.h"

namespace tflm_zo {
namespace {

constexpr int32_t kResidualOne = 256;  // residual units in one code

int32_t Clamp(int32_t value, int32_t limit) {
  return value > limit ? limit : (value < -limit ? -limit : value);
}

// Moves weight and residual by `change` residual units. At the ends of the range the residual is
// dropped.
void MoveWeight(int8_t* weight, int8_t* residual, int32_t change, int32_t limit) {
  const int32_t total = *residual + change;
  // Nearest code: the residual stays in -128 .. 127. Division of a shifted non-negative number
  // floors portably.
  constexpr int32_t kOffset = 1 << 29;
  const int32_t carry =
      (total + kResidualOne / 2 + kOffset) / kResidualOne - kOffset / kResidualOne;
  const int32_t value = *weight + carry;
  const int32_t clamped = Clamp(value, limit);
  // A weight that started outside the limit (-128, say) stays where it is until a step moves it.
  if (carry != 0) *weight = static_cast<int8_t>(clamped);
  *residual =
      static_cast<int8_t>(value == clamped || carry == 0 ? total - carry * kResidualOne : 0);
}

void MoveBias(int32_t* bias, int32_t change) {
  int64_t value = static_cast<int64_t>(*bias) - change;
  if (value > 2147483647) value = 2147483647;
  if (value < -2147483647) value = -2147483647;
  *bias = static_cast<int32_t>(value);
}

}  // namespace

void HighResolutionLogits(const Head& head, float* logits) {
  for (int32_t j = 0; j < head.outputs; ++j) {
    const int8_t* row = head.weights + j * head.features;
    int32_t accumulator = head.bias == nullptr ? 0 : head.bias[j];
    for (int32_t k = 0; k < head.features; ++k) {
      accumulator += row[k] * (head.input[k] - head.input_zero_point);
    }
    logits[j] = static_cast<float>(accumulator) * head.accumulator_scales[j];
  }
}

float FeatureEnergy(const Head& head, float scale) {
  int32_t sum = 0;
  for (int32_t k = 0; k < head.features; ++k) {
    const int32_t x = head.input[k] - head.input_zero_point;
    sum += x * x;
  }
  return static_cast<float>(sum) * scale * scale;
}

void HeadUpdate(const Head& head, const float* gradient, float rate, uint32_t rounding_key) {
  // No single sample may move a weight by more than its whole range; this also keeps MoveWeight
  // within int32.
  constexpr int32_t kLargestChange = 256 * kResidualOne;
  for (int32_t j = 0; j < head.outputs; ++j) {
    const float step = rate * gradient[j];
    const float unit = step * head.weight_factors[j] * static_cast<float>(kResidualOne);
    for (int32_t k = 0; k < head.features; ++k) {
      const int32_t i = j * head.features + k;
      const float change = unit * static_cast<float>(head.input[k] - head.input_zero_point);
      const uint32_t random = RandomWord(rounding_key, static_cast<uint32_t>(i));
      const int32_t rounded = Clamp(StochasticRound(change, random), kLargestChange);
      MoveWeight(&head.weights[i], &head.residual[i], -rounded, head.weight_limit);
    }
    if (head.bias != nullptr) {
      const uint32_t random =
          RandomWord(rounding_key, static_cast<uint32_t>(head.outputs * head.features + j));
      MoveBias(&head.bias[j], StochasticRound(step / head.accumulator_scales[j], random));
    }
  }
}

}  // namespace tflm_zo
