// SPDX-License-Identifier: Apache-2.0
#include "node_perturbation.h"

#include "random.h"

namespace tflm_zo {
namespace {

bool Saturated(int8_t y, const NodeMap& map) {
  return y <= map.activation_min || y >= map.activation_max;
}

// Bit j of the result: whether channel first + j is kept, j < count <= 32.
uint32_t KeptBits(const uint32_t* kept, int32_t first, int32_t count) {
  const int32_t word = first >> 5;
  const int32_t shift = first & 31;
  const uint32_t low = kept[word] >> shift;
  return shift + count > 32 ? low | kept[word + 1] << (32 - shift) : low;
}

// Perturbs `count` (at most 32) outputs of a position; bit j of `signs` is the sign of outputs[j],
// bit j of `kept` tells whether it takes part.
void PerturbWithin(int8_t* outputs, int32_t count, const NodeMap& map, int32_t amount,
                   uint32_t signs, uint32_t kept) {
  for (int32_t j = 0; j < count; ++j) {
    const int32_t y = outputs[j];
    const int32_t delta = ((signs >> j) & 1u) ? amount : -amount;
    int32_t value = y + delta;
    value = value < map.activation_min ? map.activation_min : value;
    value = value > map.activation_max ? map.activation_max : value;
    const bool still = (y <= map.activation_min) | (y >= map.activation_max) | !((kept >> j) & 1u);
    outputs[j] = static_cast<int8_t>(still ? y : value);
  }
}

}  // namespace

SignMap::SignMap(const NodeMap& map)
    : side_y(map.block > 0 && map.block < map.height ? map.block : map.height),
      side_x(map.block > 0 && map.block < map.width ? map.block : map.width),
      blocks_x((map.width + side_x - 1) / side_x),
      channels(map.channels) {}

uint32_t SignMap::Index(int32_t row, int32_t column, int32_t channel) const {
  // Divisions by one are common, and slow on small processors.
  const int32_t block_y = side_y == 1 ? row : row / side_y;
  const int32_t block_x = side_x == 1 ? column : column / side_x;
  return static_cast<uint32_t>((block_y * blocks_x + block_x) * channels + channel);
}

int32_t SignMap::Sharing(int32_t row, int32_t column, const NodeMap& map) const {
  if (side_y == 1 && side_x == 1) return 1;
  const int32_t left_y = map.height - row / side_y * side_y;
  const int32_t left_x = map.width - column / side_x * side_x;
  return (left_y < side_y ? left_y : side_y) * (left_x < side_x ? left_x : side_x);
}

void PerturbNodes(int8_t* y, const NodeMap& map, const uint32_t* kept, int32_t amount,
                  uint32_t key) {
  const SignMap signs(map);
  for (int32_t row = 0; row < map.height; ++row) {
    for (int32_t column = 0; column < map.width; ++column) {
      int8_t* outputs = y + (row * map.width + column) * map.channels;
      const uint32_t first = signs.Index(row, column, 0);
      int32_t channel = 0;
      while (channel < map.channels) {
        const uint32_t index = first + static_cast<uint32_t>(channel);
        const int32_t left_in_word = 32 - static_cast<int32_t>(index & 31u);
        const int32_t left = map.channels - channel;
        const int32_t count = left < left_in_word ? left : left_in_word;
        PerturbWithin(outputs + channel, count, map, amount,
                      SignWord(key, index >> 5) >> (index & 31u), KeptBits(kept, channel, count));
        channel += count;
      }
    }
  }
}

float NodeGradient::At(int32_t row, int32_t column, int32_t channel) const {
  if (Saturated(y_[(row * map_.width + column) * map_.channels + channel], map_)) return 0.0f;
  const uint32_t index = signs_.Index(row, column, channel);
  float sum = 0.0f;
  for (int32_t q = 0; q < queries_; ++q) {
    const uint32_t word = SignWord(keys_[q], index >> 5);
    sum += ((word >> (index & 31u)) & 1u) ? slopes_[q] : -slopes_[q];
  }
  return sum / static_cast<float>(signs_.Sharing(row, column, map_));
}

}  // namespace tflm_zo
