// SPDX-License-Identifier: Apache-2.0
//
// Exponential and reciprocal in fixed-point arithmetic. Every step rounds as TFLite Micro's
// reference kernels do. Qm.n is a signed number with m integer and n fractional bits.
#ifndef TFLM_ZO_SIM_FIXED_POINT_H_
#define TFLM_ZO_SIM_FIXED_POINT_H_

#include <cstdint>

namespace tflm_zo {
namespace sim {

constexpr int32_t kOneQ31 = INT32_MAX;  // 1 in Q0.31, as near as it gets

// exp(x) as Q0.31, for x <= 0 with `fraction_bits`, 26 or 27, of them.
int32_t ExpOfNegative(int32_t x, int32_t fraction_bits);

// 1 / (1 + x) for x in [0, 1) in Q0.31, as Q0.31.
int32_t ReciprocalOfOnePlus(int32_t x);

// (1 - x) / (1 + x) for x in [0, 1) in Q0.31, as Q0.31.
int32_t OneMinusOverOnePlus(int32_t x);

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_FIXED_POINT_H_
