// SPDX-License-Identifier: Apache-2.0
//
// Steps of stored weights and biases by real numbers of codes.
#ifndef TFLM_ZO_KERNELS_WEIGHT_STEP_H_
#define TFLM_ZO_KERNELS_WEIGHT_STEP_H_

#include <cstdint>

namespace tflm_zo {

constexpr int32_t kMaxWeight = 127;
constexpr int32_t kMaxBias = 2147483647;

// Which elements of a weight tensor take a step: first, first + stride, ...
struct WeightRow {
  int32_t first;
  int32_t stride;
  int32_t count;
};

// weights[i] -= rate * gradient[k] for element i, the k-th of the row, rounded stochastically to a
// code. Kept within +-127, or, if the initial value leaves room to be perturbed, +-(127 -
// headroom).
void StepWeights(const WeightRow& row, int8_t* weights, const int8_t* initial, int32_t headroom,
                 float rate, const float* gradient, uint32_t rounding_key);

// weights[i] + residual[i] / 256 -= rate * (input[k] - zero_point) for element i = first + k, k <
// count, rounded stochastically to 1/256 code. The weight is kept within +-limit.
void StepWeights(int32_t first, int32_t count, int8_t* weights, int8_t* residual, int32_t limit,
                 float rate, const int8_t* input, int32_t zero_point, uint32_t rounding_key);

// bias -= step, rounded stochastically, kept within +-limit.
void StepBias(int32_t* bias, float step, uint32_t random, int32_t limit);

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_WEIGHT_STEP_H_
