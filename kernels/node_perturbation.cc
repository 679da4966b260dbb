// SPDX-License-Identifier: Apache-2.0
#include "node_perturbation.h"

#include "random.h"

namespace tflm_zo {
namespace {

// Number of the sign that the output at (row, column) of `channel` uses.
struct SignMap {
  explicit SignMap(const NodeMap& map)
      : side_y(map.block > 0 && map.block < map.height ? map.block : map.height),
        side_x(map.block > 0 && map.block < map.width ? map.block : map.width),
        blocks_x((map.width + side_x - 1) / side_x),
        channels(map.channels) {}

  uint32_t Index(int32_t row, int32_t column, int32_t channel) const {
    return static_cast<uint32_t>(((row / side_y) * blocks_x + column / side_x) * channels +
                                 channel);
  }

  int32_t side_y, side_x, blocks_x, channels;
};

int32_t SideAt(int32_t position, int32_t side, int32_t length) {
  const int32_t start = position / side * side;
  return length - start < side ? length - start : side;
}

bool Saturated(int8_t y, const NodeMap& map) {
  return y <= map.activation_min || y >= map.activation_max;
}

}  // namespace

void PerturbNodes(int8_t* y, const NodeMap& map, int32_t amount, uint32_t key) {
  const SignMap signs(map);
  for (int32_t row = 0; row < map.height; ++row) {
    for (int32_t column = 0; column < map.width; ++column) {
      int8_t* outputs = y + (row * map.width + column) * map.channels;
      const uint32_t first = signs.Index(row, column, 0);
      uint32_t word = SignWord(key, first >> 5);
      for (int32_t c = 0; c < map.channels; ++c) {
        const uint32_t index = first + static_cast<uint32_t>(c);
        if ((index & 31u) == 0) word = SignWord(key, index >> 5);
        if (Saturated(outputs[c], map)) continue;
        int32_t value = outputs[c] + amount * SignOf(word, index & 31u);
        if (value < map.activation_min) value = map.activation_min;
        if (value > map.activation_max) value = map.activation_max;
        outputs[c] = static_cast<int8_t>(value);
      }
    }
  }
}

float NodeGradient::At(int32_t row, int32_t column, int32_t channel) const {
  if (Saturated(y_[(row * map_.width + column) * map_.channels + channel], map_)) return 0.0f;
  const SignMap signs(map_);
  const uint32_t index = signs.Index(row, column, channel);
  float sum = 0.0f;
  for (int32_t q = 0; q < queries_; ++q) {
    const uint32_t word = SignWord(keys_[q], index >> 5);
    sum += ((word >> (index & 31u)) & 1u) ? slopes_[q] : -slopes_[q];
  }
  const int32_t outputs =
      SideAt(row, signs.side_y, map_.height) * SideAt(column, signs.side_x, map_.width);
  return sum / static_cast<float>(outputs);
}

}  // namespace tflm_zo
