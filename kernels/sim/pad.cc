// SPDX-License-Identifier: Apache-2.0
#include "pad.h"

#include <cstring>

namespace tflm_zo {
namespace sim {

PadLayer::PadLayer(int64_t input_bytes, const std::vector<int32_t>& places, int8_t value)
    : input_bytes_(input_bytes), output_bytes_(static_cast<int64_t>(places.size())), value_(value) {
  for (int64_t to = 0; to < output_bytes_; ++to) {
    if (places[to] < 0) continue;
    if (to > 0 && places[to - 1] >= 0 && places[to] == places[to - 1] + 1) {
      ++stretches_.back().count;
    } else {
      stretches_.push_back({places[to], to, 1});
    }
  }
}

void PadLayer::Run(const LayerIo& io) {
  std::memset(io.output, value_, static_cast<size_t>(output_bytes_ * io.samples));
  for (int32_t s = 0; s < io.samples; ++s) {
    const int8_t* input = io.inputs[0] + s * input_bytes_;
    int8_t* output = io.output + s * output_bytes_;
    for (const Stretch& stretch : stretches_) {
      std::memcpy(output + stretch.to, input + stretch.from, static_cast<size_t>(stretch.count));
    }
  }
}

}  // namespace sim
}  // namespace tflm_zo
