// SPDX-License-Identifier: Apache-2.0
//
// Node perturbation of one layer's int8 output: y + amount * u, and the gradient dL/dy from the
// losses it gave.
//
// Outputs at the ends of the fused activation's range are left alone: their gradient is zero.
#ifndef TFLM_ZO_KERNELS_NODE_PERTURBATION_H_
#define TFLM_ZO_KERNELS_NODE_PERTURBATION_H_

#include <cstdint>

namespace tflm_zo {

// The outputs of a layer, and how they share signs: positions of a block of `block` x `block` have
// one sign per channel (1: every output its own; 0: the whole map one per channel). Fewer signs
// mean less variance and a blur.
struct NodeMap {
  int32_t height, width, channels;
  int32_t block;
  int32_t activation_min, activation_max;
};

// Which sign an output uses.
struct SignMap {
  explicit SignMap(const NodeMap& map);

  // Number of the sign that the output at (row, column) of `channel` uses.
  uint32_t Index(int32_t row, int32_t column, int32_t channel) const;

  // Positions that share it.
  int32_t Sharing(int32_t row, int32_t column, const NodeMap& map) const;

  int32_t side_y, side_x, blocks_x, channels;
};

// A bit for each of `channels` channels, 32 in a word.
constexpr int32_t ChannelWords(int32_t channels) { return (channels + 31) / 32; }

inline bool KeepsChannel(const uint32_t* kept, int32_t channel) {
  return (kept[channel >> 5] >> (channel & 31)) & 1u;
}

// y[i] += amount * u[i] in channels that are kept, within the activation's range. y:
// [height][width][channels] codes; kept: [ChannelWords].
void PerturbNodes(int8_t* y, const NodeMap& map, const uint32_t* kept, int32_t amount,
                  uint32_t key);

// dL/dy of single outputs, in loss per code, from the losses that node perturbation gave.
class NodeGradient {
 public:
  // y: the clean codes; keys, slopes: of `queries` directions their streams and their loss
  // differences per unit of u.
  NodeGradient(const int8_t* y, const NodeMap& map, const uint32_t* keys, const float* slopes,
               int32_t queries)
      : y_(y), map_(map), signs_(map), keys_(keys), slopes_(slopes), queries_(queries) {}

  // 1 / (outputs that share the sign) * sum_q slopes[q] * u_q; 0 where y is saturated.
  float At(int32_t row, int32_t column, int32_t channel) const;

 private:
  const int8_t* y_;
  const NodeMap& map_;
  SignMap signs_;
  const uint32_t* keys_;
  const float* slopes_;
  int32_t queries_;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_NODE_PERTURBATION_H_
