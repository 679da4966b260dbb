// SPDX-License-Identifier: Apache-2.0
#include "head.h"

#include "random.h"
#include "weight_step.h"

namespace tflm_zo {

void HighResolutionLogits(const Head& head, float* logits) {
  for (int32_t j = 0; j < head.outputs; ++j) {
    const int8_t* row = head.weights + j * head.features;
    // Not signed: a bias may be anything, and sums that leave the range must still have a meaning.
    auto accumulator = static_cast<uint32_t>(head.bias == nullptr ? 0 : head.bias[j]);
    for (int32_t k = 0; k < head.features; ++k) {
      accumulator += static_cast<uint32_t>(row[k] * (head.input[k] - head.input_zero_point));
    }
    logits[j] = static_cast<float>(static_cast<int32_t>(accumulator)) * head.accumulator_scales[j];
  }
}

float FeatureEnergy(const Head& head, float scale) {
  int64_t sum = 0;  // int32 overflows from 33026 features on
  for (int32_t k = 0; k < head.features; ++k) {
    const int32_t x = head.input[k] - head.input_zero_point;
    sum += x * x;
  }
  return static_cast<float>(sum) * scale * scale;
}

void HeadUpdate(const Head& head, const float* gradient, float rate, uint32_t rounding_key) {
  const FineWeights weights{head.weights, head.residual, head.weight_limit};
  const InputCodes input{head.input, head.input_zero_point, head.features};
  for (int32_t j = 0; j < head.outputs; ++j) {
    const float step = rate * gradient[j];
    if (head.residual != nullptr) {
      StepWeights(weights, j * head.features, input, step * head.weight_factors[j], rounding_key);
    }
    if (head.trains_bias) {
      StepBias(&head.bias[j], step / head.accumulator_scales[j],
               RandomWord(rounding_key, static_cast<uint32_t>(head.outputs * head.features + j)),
               kMaxBias);
    }
  }
}

void FeatureGradient(const Head& head, const float* gradient, float input_scale,
                     float* feature_gradient) {
  for (int32_t k = 0; k < head.features; ++k) feature_gradient[k] = 0.0f;
  for (int32_t j = 0; j < head.outputs; ++j) {
    const float slope = gradient[j] * (head.accumulator_scales[j] / input_scale);
    const int8_t* row = head.weights + j * head.features;
    for (int32_t k = 0; k < head.features; ++k) {
      feature_gradient[k] += slope * static_cast<float>(row[k]);
    }
  }
}

}  // namespace tflm_zo
