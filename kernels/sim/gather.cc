// SPDX-License-Identifier: Apache-2.0
#include "gather.h"

#include <cstring>
#include <utility>

namespace tflm_zo {
namespace sim {

GatherLayer::GatherLayer(const std::vector<int64_t>& sizes, const std::vector<int32_t>& places,
                         std::vector<int8_t> fill)
    : sizes_(sizes), fill_(std::move(fill)) {
  for (size_t to = 0; to < places.size(); ++to) {
    if (places[to] < 0) {
      fills_ = true;
      continue;
    }
    int32_t input = 0;
    int64_t from = places[to];
    while (from >= sizes_[input]) from -= sizes_[input++];
    if (to > 0 && from > 0 && places[to - 1] >= 0 && places[to] == places[to - 1] + 1) {
      ++stretches_.back().count;
    } else {
      stretches_.push_back({input, from, static_cast<int64_t>(to), 1});
    }
  }
}

void GatherLayer::Run(const LayerIo& io) {
  const size_t output_bytes = fill_.size();
  for (int32_t s = 0; s < io.samples; ++s) {
    int8_t* output = io.output + s * output_bytes;
    if (fills_) std::memcpy(output, fill_.data(), output_bytes);
    for (const Stretch& stretch : stretches_) {
      const int8_t* from = io.inputs[stretch.input] + s * sizes_[stretch.input] + stretch.from;
      if (stretch.count == 1) {
        output[stretch.to] = *from;
      } else {
        std::memcpy(output + stretch.to, from, static_cast<size_t>(stretch.count));
      }
    }
  }
}

}  // namespace sim
}  // namespace tflm_zo
