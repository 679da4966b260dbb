// SPDX-License-Identifier: Apache-2.0
//
// Operators that make each output code of two: ADD, SUB and MUL of tensors and constants of any
// shapes that fit each other by broadcasting.
#ifndef TFLM_ZO_SIM_ELEMENTWISE_H_
#define TFLM_ZO_SIM_ELEMENTWISE_H_

#include <cstdint>
#include <vector>

#include "layer.h"
#include "operand.h"
#include "sim_api.h"

namespace tflm_zo {
namespace sim {

// The output code of each pair of input codes: at (first + 128) * 256 + second + 128.
using PairTable = std::vector<int8_t>;

PairTable SumTable(const TflmZoSimAddParams& params, bool subtract);
PairTable ProductTable(const TflmZoSimProductParams& params);

class ElementwiseLayer : public Layer {
 public:
  // `elements`: of the output, per sample.
  ElementwiseLayer(int64_t elements, PairTable table, Operand first, Operand second);

  void Run(const LayerIo& io) override;

 private:
  int64_t elements_;
  PairTable table_;
  Operand operands_[2];
  std::vector<int8_t> gathered_[2];  // inputs of another shape, for one sample
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_ELEMENTWISE_H_
