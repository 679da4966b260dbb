// SPDX-License-Identifier: Apache-2.0
#include "lookup.h"

#include "fixed_point.h"
#include "requantize.h"

namespace tflm_zo {
namespace sim {
namespace {

constexpr int32_t kLogisticOutputBits = 8;
constexpr int32_t kTanhOutputBits = 7;

// 1 / (1 + exp(-x)) for x in Q4.27, as Q0.31.
int32_t Logistic(int32_t x) {
  if (x == 0) return INT32_C(1) << 30;
  const int32_t of_positive =
      ReciprocalOfOnePlus(ExpOfNegative(x > 0 ? -x : x, kLogisticFractionBits));
  return x > 0 ? of_positive : kOneQ31 - of_positive;
}

// tanh(x) for x in Q4.27, as Q0.31: (1 - exp(-2 |x|)) / (1 + exp(-2 |x|)) with the sign of x. The
// same number in Q5.26 is 2 x.
int32_t Tanh(int32_t x) {
  if (x == 0) return 0;
  const int32_t of_positive =
      OneMinusOverOnePlus(ExpOfNegative(x > 0 ? -x : x, kLogisticFractionBits - 1));
  return x > 0 ? of_positive : -of_positive;
}

}  // namespace

CodeTable RequantizeTable(const TflmZoSimRequantizeParams& p) {
  CodeTable table;
  for (int32_t code = -128; code < 128; ++code) {
    const int32_t scaled =
        Rescale(code - p.input_zero_point, p.multiplier, p.left_shift, p.right_shift);
    table[code + 128] = ClampToInt8(scaled + p.output_zero_point, -128, 127);
  }
  return table;
}

CodeTable LogisticTable(const TflmZoSimLogisticParams& p) {
  CodeTable table;
  for (int32_t code = -128; code < 128; ++code) {
    const int32_t x = code - p.input_zero_point;
    int32_t probability = x > 0 ? 256 : 0;
    if (x > -p.radius && x < p.radius) {
      const int32_t logistic = Logistic(Rescale(x, p.multiplier, p.left_shift, 0));
      probability = RoundingShiftRight(logistic, 31 - kLogisticOutputBits);
    }
    table[code + 128] = ClampToInt8(probability - 128, -128, 127);
  }
  return table;
}

CodeTable TanhTable(const TflmZoSimLogisticParams& p) {
  CodeTable table;
  for (int32_t code = -128; code < 128; ++code) {
    const int32_t x = code - p.input_zero_point;
    int32_t value = x > 0 ? 128 : -128;
    if (x > -p.radius && x < p.radius) {
      const int32_t tanh = Tanh(Rescale(x, p.multiplier, p.left_shift, 0));
      value = RoundingShiftRight(tanh, 31 - kTanhOutputBits);
    }
    table[code + 128] = ClampToInt8(value, -128, 127);
  }
  return table;
}

void LookupLayer::Run(const LayerIo& io) {
  for (int64_t i = 0; i < elements_ * io.samples; ++i) io.output[i] = table_[io.inputs[0][i] + 128];
}

}  // namespace sim
}  // namespace tflm_zo
