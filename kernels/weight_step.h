// SPDX-License-Identifier: Apache-2.0
//
// A step of one stored weight or bias by a real number of codes.
#ifndef TFLM_ZO_KERNELS_WEIGHT_STEP_H_
#define TFLM_ZO_KERNELS_WEIGHT_STEP_H_

#include <cstdint>

namespace tflm_zo {

constexpr int32_t kMaxWeight = 127;
constexpr int32_t kMaxBias = 2147483647;

// weight -= step, rounded stochastically to a code, kept within +-limit.
void StepWeight(int8_t* weight, float step, uint32_t random, int32_t limit);

// weight + residual / 256 -= step, rounded stochastically to 1/256 code, the weight kept within
// +-limit.
void StepWeight(int8_t* weight, int8_t* residual, float step, uint32_t random, int32_t limit);

// bias -= step, rounded stochastically, kept within +-limit.
void StepBias(int32_t* bias, float step, uint32_t random, int32_t limit);

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_WEIGHT_STEP_H_
