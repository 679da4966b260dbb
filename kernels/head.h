// SPDX-License-Identifier: Apache-2.0
//
// The head: the last fully connected layer, whose gradient is known in closed form from its own
// input. A convolution whose one window is its whole input is one, too: its weights and its input
// lie in memory in the same order.
#ifndef TFLM_ZO_KERNELS_HEAD_H_
#define TFLM_ZO_KERNELS_HEAD_H_

#include <cstdint>

namespace tflm_zo {

// y = W (x - zero_point) + b in integers.
struct Head {
  int8_t* weights;   // [outputs][features], codes
  int8_t* residual;  // [outputs][features], 1/256 codes below `weights`; nullptr: these are frozen
  int32_t* bias;     // [outputs], or nullptr
  const int8_t* input;  // [features], codes
  int32_t outputs;
  int32_t features;
  int32_t input_zero_point;
  int32_t weight_limit;             // weights stay within +-weight_limit
  bool trains_bias;                 // or it is frozen
  const float* accumulator_scales;  // [outputs]: s_x * s_w
  const float* weight_factors;      // [outputs]: s_x / s_w
};

// logits[j] = accumulator_j * accumulator_scales[j]: what the layer computes before it rounds to
// int8 codes.
void HighResolutionLogits(const Head& head, float* logits);

// dL/dx of the real-valued input from dL/dlogits: gradient^T W. `input_scale` is s_x.
void FeatureGradient(const Head& head, const float* gradient, float input_scale,
                     float* feature_gradient);

// Sum of the squared real-valued inputs; `scale` is s_x.
float FeatureEnergy(const Head& head, float scale);

// One step of gradient descent from this sample: dL/dW is the outer product of `gradient`
// (dL/dlogits, [outputs]) and the real-valued input, so in codes
//   W[j][k] -= rate * gradient[j] * (x[k] - zero_point) * s_x / s_w[j],   b[j] -= rate *
//   gradient[j] / (s_x s_w[j]).
// Fractions of a code are kept in the residual (8 bits) and rounded stochastically below that, so
// samples may be applied one at a time, with no gradient buffer, and steps far below one code still
// add up.
void HeadUpdate(const Head& head, const float* gradient, float rate, uint32_t rounding_key);

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_HEAD_H_
