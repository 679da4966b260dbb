// SPDX-License-Identifier: Apache-2.0
#include "extremum.h"

#include <algorithm>

namespace tflm_zo {
namespace sim {

void ExtremumLayer::Run(const LayerIo& io) {
  int8_t* output = io.output;
  for (int32_t s = 0; s < io.samples; ++s) {
    const int8_t* input = io.inputs[0] + s * input_bytes_;
    for (size_t first = 0; first < places_.size(); first += static_cast<size_t>(count_)) {
      int8_t found = input[places_[first]];
      for (int32_t i = 1; i < count_; ++i) {
        const int8_t code = input[places_[first + i]];
        found = maximum_ ? std::max(found, code) : std::min(found, code);
      }
      *output++ = found;
    }
  }
}

}  // namespace sim
}  // namespace tflm_zo
