// SPDX-License-Identifier: Apache-2.0
#include "blend.h"

#include <cstddef>

namespace tflm_zo {
namespace sim {

void BlendLayer::Run(const LayerIo& io) {
  constexpr int64_t kHalf = INT64_C(1) << (kBlendFractionBits - 1);
  int8_t* output = io.output;
  for (int32_t s = 0; s < io.samples; ++s) {
    const int8_t* input = io.inputs[0] + s * input_bytes_;
    for (size_t first = 0; first < places_.size(); first += kBlended) {
      int64_t sum = 0;
      for (size_t i = first; i < first + kBlended; ++i) {
        sum += static_cast<int64_t>(input[places_[i]]) * weights_[i];
      }
      // Ties away from zero: a division cuts towards it.
      *output++ = static_cast<int8_t>((sum + (sum > 0 ? kHalf : -kHalf)) / (2 * kHalf));
    }
  }
}

}  // namespace sim
}  // namespace tflm_zo
