// SPDX-License-Identifier: Apache-2.0
#ifndef TFLM_ZO_SIM_OPERAND_H_
#define TFLM_ZO_SIM_OPERAND_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "layer.h"

namespace tflm_zo {
namespace sim {

// An input or a constant, brought to the shape that an operator computes with.
struct Operand {
  int32_t input;                 // of the layer; -1 for a constant
  int64_t bytes;                 // of the input, per sample
  std::vector<int32_t> places;   // of each element in the input; none if they are in order
  std::vector<int8_t> constant;  // for each element

  // The elements of one sample, in order; `gathered` has room for as many as `places`.
  const int8_t* Values(const LayerIo& io, int32_t sample, int8_t* gathered) const {
    if (input < 0) return constant.data();
    const int8_t* values = io.inputs[input] + sample * bytes;
    if (places.empty()) return values;
    for (size_t e = 0; e < places.size(); ++e) gathered[e] = values[places[e]];
    return gathered;
  }
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_OPERAND_H_
