// SPDX-License-Identifier: Apache-2.0
//
// Weight perturbation of one parameter tensor: w + amount * u, and the update from the losses it
// gave.
//
// Reversibility without a second copy of the weights: an element is perturbed only if its *initial*
// value, readable in flash at any time, leaves `headroom` codes to both ends of its range; updates
// keep such elements within that range. Adding and then subtracting the same direction therefore
// never saturates and is exact.
#ifndef TFLM_ZO_KERNELS_PERTURBATION_H_
#define TFLM_ZO_KERNELS_PERTURBATION_H_

#include <cstdint>

#include "mask.h"
#include "weight_step.h"

namespace tflm_zo {

// Whether an element of this initial value takes part in weight perturbation.
template <typename T>
bool HasHeadroom(T initial, int32_t limit, int32_t headroom) {
  return (initial >= headroom - limit) & (initial <= limit - headroom);
}

// What of a parameter tensor takes part: elements with headroom, of channels that the mask keeps.
struct Part {
  int32_t count;
  int32_t headroom;
  ChannelLayout layout;
  Mask mask;
  uint32_t mask_key;
};

// w[i] += amount * u[i] for the elements that take part. w, initial: part.count codes; |amount| <=
// headroom; key: stream of the direction's signs.
void Perturb(int8_t* w, const int8_t* initial, const Part& part, int32_t amount, uint32_t key);
void Perturb(int32_t* w, const int32_t* initial, const Part& part, int32_t amount, uint32_t key);

// The update of one parameter tensor.
struct Update {
  Part part;
  float rate;            // learning rate, in the float model's units
  float sigma;           // of the perturbation, in codes
  const uint32_t* keys;  // `queries` direction streams
  const float* slopes;   // `queries` loss differences, scaled to a mean over queries and samples
  int32_t queries;
  uint32_t rounding_key;
  float* moments;  // momentum state for part.count elements; nullptr: plain gradient descent
};

// For the elements that take part. Plain: w[i] -= StochasticRound(rate / sigma *
// factors[channel(i)] * sum_q slopes[q] * u_q[i]), kept within the range that leaves headroom. This
// is the quantization-aware scaling of gradient descent on w * scale (Zhao et al., ACM TODAES
// 30(5), 2025): the learning rate keeps the meaning it has for the float model. With moments: every
// element moves by rate * sqrt(factors[channel(i)]) codes against the sign of its momentum,
// fractions of a code being kept.
void ApplyUpdate(int8_t* w, const int8_t* initial, const Update& update);
void ApplyUpdate(int32_t* w, const int32_t* initial, const Update& update);

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_PERTURBATION_H_
