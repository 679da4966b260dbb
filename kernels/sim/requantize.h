// SPDX-License-Identifier: Apache-2.0
//
// Rescaling of int32 accumulators to int8 outputs, with the double rounding of TFLite Micro's
// reference kernels: a rounding high multiplication, then a rounding shift.
//
// The functions are `static` on purpose: the instruction-set specific sources include this header
// too, and a function shared between them could end up in the library with the wrong instructions.
#ifndef TFLM_ZO_SIM_REQUANTIZE_H_
#define TFLM_ZO_SIM_REQUANTIZE_H_

#include <cstdint>

namespace tflm_zo {
namespace sim {

// How the accumulators of a layer become int8. The three arrays have one element per output
// channel, padded to a multiple of kChannelBlock with zeros.
//   multiplier: 0 or in [2^30, 2^31), the Q0.31 significand of input * weight / output scale
//   left_shift, right_shift: in [0, 31], at most one of the two is not 0
struct Requantization {
  const int32_t* multiplier;
  const int32_t* left_shift;
  const int32_t* right_shift;
  int32_t output_offset;   // output zero point
  int32_t activation_min;  // in [-128, 127]
  int32_t activation_max;  // in [activation_min, 127]
};

// Output channels are processed in blocks of this size; per-channel arrays are padded to it.
constexpr int kChannelBlock = 16;

// round(x * multiplier / 2^31), ties towards +infinity. Not for INT32_MIN squared, the one product
// that does not fit.
static inline int32_t RoundingHighMultiply(int32_t x, int32_t multiplier) {
  const int64_t product = static_cast<int64_t>(x) * multiplier;
  return static_cast<int32_t>((product + (INT64_C(1) << 30)) >> 31);
}

// round(x / 2^exponent), ties away from zero, for exponent in [0, 31].
static inline int32_t RoundingShiftRight(int32_t x, int32_t exponent) {
  const int64_t half = exponent > 0 ? INT64_C(1) << (exponent - 1) : 0;
  const int64_t tie = x < 0 && exponent > 0 ? 1 : 0;
  return static_cast<int32_t>((x + half - tie) >> exponent);
}

// x * multiplier * 2^(left_shift - right_shift - 31), rounded as TFLite Micro does. The left shift
// wraps around.
static inline int32_t Rescale(int32_t x, int32_t multiplier, int32_t left_shift,
                              int32_t right_shift) {
  const int32_t shifted = static_cast<int32_t>(static_cast<uint32_t>(x) << left_shift);
  return RoundingShiftRight(RoundingHighMultiply(shifted, multiplier), right_shift);
}

static inline int8_t ClampToInt8(int32_t x, int32_t low, int32_t high) {
  return static_cast<int8_t>(x < low ? low : (x > high ? high : x));
}

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_REQUANTIZE_H_
