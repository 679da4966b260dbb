// SPDX-License-Identifier: Apache-2.0
#include "lookup.h"

#include "fixed_point.h"
#include "requantize.h"

namespace tflm_zo {
namespace sim {
namespace {

constexpr int32_t kLogisticOutputBits = 8;

// 1 / (1 + exp(-x)) for x in Q4.27, as Q0.31.
int32_t Logistic(int32_t x) {
  if (x == 0) return INT32_C(1) << 30;
  const int32_t of_positive =
      ReciprocalOfOnePlus(ExpOfNegative(x > 0 ? -x : x, kLogisticFractionBits));
  return x > 0 ? of_positive : kOneQ31 - of_positive;
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

void LookupLayer::Run(const LayerIo& io) {
  for (int64_t i = 0; i < elements_ * io.samples; ++i) io.output[i] = table_[io.inputs[0][i] + 128];
}

}  // namespace sim
}  // namespace tflm_zo
