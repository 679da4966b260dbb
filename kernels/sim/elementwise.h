// SPDX-License-Identifier: Apache-2.0
//
// Operators that make each output code of two: ADD, SUB and MUL of tensors and constants of any
// shapes that fit each other by broadcasting.
#ifndef TFLM_ZO_SIM_ELEMENTWISE_H_
#define TFLM_ZO_SIM_ELEMENTWISE_H_

#include <cstdint>
#include <vector>

#include "layer.h"
#include "sim_api.h"

namespace tflm_zo {
namespace sim {

// The output code of each pair of input codes: at (first + 128) * 256 + second + 128.
using PairTable = std::vector<int8_t>;

PairTable SumTable(const TflmZoSimAddParams& params, bool subtract);
PairTable ProductTable(const TflmZoSimProductParams& params);

// An input or a constant, brought to the output's shape.
struct Operand {
  int32_t input;  // of the layer, 0 or 1; -1 for a constant
  int64_t bytes;  // of the input, per sample
  std::vector<int32_t>
      places;  // of each output element in the input; none if the shapes are the same
  std::vector<int8_t> constant;  // for each output element
};

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
