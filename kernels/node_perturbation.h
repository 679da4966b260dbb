// SPDX-License-Identifier: Apache-2.0
//
// Node perturbation of one layer's int8 output: y + amount * u, and the gradient dL/dy from the losses it gave.
//
// Outputs at the ends of the fused activation's range are left alone: their gradient is zero.
#ifndef TFLM_ZO_KERNELS_NODE_PERTURBATION_H_
#define TFLM_ZO_KERNELS_NODE_PERTURBATION_H_

#include <cstdint>

namespace tflm_zo {

// The outputs of a layer, and how they share signs: positions of a block of `block` x `block` have one sign per
// channel (1: every output its own; 0: the whole map one per channel). Fewer signs mean less variance and a blur.
struct NodeMap {
  int32_t height, width, channels;
  int32_t block;
  int32_t activation_min, activation_max;
};

// y[i] += amount * u[i], kept within the activation's range. y: [height][width][channels] codes.
void PerturbNodes(int8_t* y, const NodeMap& map, int32_t amount, uint32_t key);

// dL/dy of one channel, in loss per code: dy[p] = 1 / (outputs in the block) * sum_q slopes[q] * u_q[p], 0 where y is
// saturated. y: the clean codes; slopes: loss differences per unit of u, `queries` of them; dy: [height * width].
void NodeGradient(const int8_t* y, const NodeMap& map, int32_t channel, const uint32_t* keys,
                  const float* slopes, int32_t queries, float* dy);

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_NODE_PERTURBATION_H_
