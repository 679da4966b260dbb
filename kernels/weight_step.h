// SPDX-License-Identifier: Apache-2.0
//
// Steps of gradient descent on stored weights and biases: real numbers of codes, which integers
// cannot hold.
#ifndef TFLM_ZO_KERNELS_WEIGHT_STEP_H_
#define TFLM_ZO_KERNELS_WEIGHT_STEP_H_

#include <cstdint>

namespace tflm_zo {

constexpr int32_t kMaxWeight = 127;
constexpr int32_t kMaxBias = 2147483647;

// Weights of a layer without a residual: what is below one code is lost, so it is rounded
// stochastically.
struct CodeWeights {
  int8_t* codes;
  const int8_t* initial;
  int32_t headroom;  // codes to both ends of the range that perturbed weights must leave free
};

// Weights with 8 more bits: the value in codes is codes + residual / 256.
struct FineWeights {
  int8_t* codes;
  int8_t* residual;
  int32_t limit;  // codes stay within +-limit
};

// Some elements of a weight tensor: first, first + stride, ...
struct WeightRow {
  int32_t first;
  int32_t stride;
  int32_t count;
};

// The input of a fully connected layer, on one sample.
struct InputCodes {
  const int8_t* codes;
  int32_t zero_point;
  int32_t count;
};

// codes[i] -= rate * gradient[k] for element i, the k-th of the row, rounded stochastically to a
// code. Kept within +-127, or within +-(127 - headroom) if the initial value leaves room to be
// perturbed.
void StepWeights(const CodeWeights& weights, const WeightRow& row, float rate,
                 const float* gradient, uint32_t rounding_key);

// codes[i] + residual[i] / 256 -= rate * (input[k] - zero_point) for element i = first + k, rounded
// stochastically to 1/256 code.
void StepWeights(const FineWeights& weights, int32_t first, const InputCodes& input, float rate,
                 uint32_t rounding_key);

// bias -= step, rounded stochastically, kept within +-limit.
void StepBias(int32_t* bias, float step, uint32_t random, int32_t limit);

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_WEIGHT_STEP_H_
