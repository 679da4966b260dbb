// SPDX-License-Identifier: Apache-2.0
#include "loss.h"

#include "real_math.h"

namespace tflm_zo {
namespace {

// Largest logit; of the pair (0, z) for a sigmoid unit.
float Largest(const float* logits, int32_t outputs) {
  float largest = outputs == 1 ? 0.0f : logits[0];
  for (int32_t j = 0; j < outputs; ++j) {
    if (logits[j] > largest) largest = logits[j];
  }
  return largest;
}

// Sum of exp(z_j - largest).
float ExpSum(const float* logits, int32_t outputs, float largest) {
  float sum = outputs == 1 ? ExpNonPositive(-largest) : 0.0f;
  for (int32_t j = 0; j < outputs; ++j) sum += ExpNonPositive(logits[j] - largest);
  return sum;
}

}  // namespace

float CrossEntropy(const float* logits, int32_t outputs, int32_t target) {
  const float largest = Largest(logits, outputs);
  const float chosen = outputs > 1 ? logits[target] : (target == 1 ? logits[0] : 0.0f);
  return LogPositive(ExpSum(logits, outputs, largest)) + (largest - chosen);
}

void CrossEntropyGradient(float* logits, int32_t outputs, int32_t target) {
  const float largest = Largest(logits, outputs);
  const float sum = ExpSum(logits, outputs, largest);
  for (int32_t j = 0; j < outputs; ++j) {
    const float probability = ExpNonPositive(logits[j] - largest) / sum;
    const bool is_target = outputs == 1 ? target == 1 : j == target;
    logits[j] = is_target ? probability - 1.0f : probability;
  }
}

float MeanSquaredError(const float* outputs, const int8_t* target, int32_t count, float scale,
                       int32_t zero_point) {
  float sum = 0.0f;
  for (int32_t j = 0; j < count; ++j) {
    const float error = outputs[j] - static_cast<float>(target[j] - zero_point) * scale;
    sum += error * error;
  }
  return sum / static_cast<float>(count);
}

void MeanSquaredErrorGradient(float* outputs, const int8_t* target, int32_t count, float scale,
                              int32_t zero_point) {
  const float factor = 2.0f / static_cast<float>(count);
  for (int32_t j = 0; j < count; ++j) {
    const float error = outputs[j] - static_cast<float>(target[j] - zero_point) * scale;
    outputs[j] = error * factor;
  }
}

}  // namespace tflm_zo
