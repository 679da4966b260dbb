// SPDX-License-Identifier: Apache-2.0
//
// Operators that make each output code of one input code: QUANTIZE between int8 tensors, LOGISTIC,
// TANH, and those whose table the caller makes.
#ifndef TFLM_ZO_SIM_LOOKUP_H_
#define TFLM_ZO_SIM_LOOKUP_H_

#include <array>
#include <cstdint>

#include "layer.h"
#include "sim_api.h"

namespace tflm_zo {
namespace sim {

constexpr int32_t kLogisticFractionBits = 27;  // of the rescaled input, Q4.27

// The output code of each input code, from -128 on.
using CodeTable = std::array<int8_t, 256>;

CodeTable RequantizeTable(const TflmZoSimRequantizeParams& params);
CodeTable LogisticTable(const TflmZoSimLogisticParams& params);
CodeTable TanhTable(const TflmZoSimLogisticParams& params);

class LookupLayer : public Layer {
 public:
  // `elements`: of each tensor, per sample.
  LookupLayer(int64_t elements, const CodeTable& table) : elements_(elements), table_(table) {}

  void Run(const LayerIo& io) override;

 private:
  int64_t elements_;
  CodeTable table_;
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_LOOKUP_H_
