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

// A loss without labels: sum_j p_j log(m_j / p_j) with p = softmax(z) and m the mean prediction of
// recent samples, that is the entropy of the prediction less its cross-entropy with m. Its mean
// over samples is, but for the sign, the information that predictions carry about their sample
// (Krause et al., "Discriminative clustering by regularized information maximization", NIPS 2010;
// Liang et al., ICML 2020): it asks for predictions that are certain, but not all the same. Entropy
// alone is lowest when every sample gets the same class, and training on it ends there. One output:
// of a sigmoid unit's two classes. mean: [outputs], m less the uniform prediction; 0 at the start.
float Entropy(const float* logits, int32_t outputs, const float* mean);

// Replaces `logits` by dL/dz_j = -p_j (log(p_j / m_j) + L).
void EntropyGradient(float* logits, int32_t outputs, const float* mean);

// Moves the mean prediction by a hundredth of its distance to this one.
void UpdateMeanPrediction(const float* logits, int32_t outputs, float* mean);

// Mean over the outputs of (y - (target - zero_point) * scale)^2; target: int8 codes in the
// output's quantization.
float MeanSquaredError(const float* outputs, const int8_t* target, int32_t count, float scale,
                       int32_t zero_point);

// Replaces `outputs` by dL/dy = 2 (y - t) / count.
void MeanSquaredErrorGradient(float* outputs, const int8_t* target, int32_t count, float scale,
                              int32_t zero_point);

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_LOSS_H_
