// SPDX-License-Identifier: Apache-2.0
//
// Losses of one sample in single precision, and their gradients with respect to the model's
// real-valued outputs.
#ifndef TFLM_ZO_KERNELS_LOSS_H_
#define TFLM_ZO_KERNELS_LOSS_H_

#include <cstdint>

namespace tflm_zo {

// Cross-entropy log(sum_j exp z_j) - z_target. One output stands for a sigmoid unit: the logits are
// then (0, z). target: 0 .. outputs - 1, or 0 .. 1 for one output.
float CrossEntropy(const float* logits, int32_t outputs, int32_t target);

// Replaces `logits` by dL/dz = softmax(z) - onehot(target) (one output: sigmoid(z) - target).
void CrossEntropyGradient(float* logits, int32_t outputs, int32_t target);

// Mean over the outputs of (y - (target - zero_point) * scale)^2; target: int8 codes in the
// output's quantization.
float MeanSquaredError(const float* outputs, const int8_t* target, int32_t count, float scale,
                       int32_t zero_point);

// Replaces `outputs` by dL/dy = 2 (y - t) / count.
void MeanSquaredErrorGradient(float* outputs, const int8_t* target, int32_t count, float scale,
                              int32_t zero_point);

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_LOSS_H_
