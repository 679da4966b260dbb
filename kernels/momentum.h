// SPDX-License-Identifier: Apache-2.0
//
// Signum (Bernstein et al., "signSGD with momentum", ICML 2018) for the few parameters that have
// moments: steps of one size in the direction of the momentum's sign. They do not depend on the
// scale of the gradient, so one learning rate serves all drifts; and the heavy tails of
// zeroth-order gradients cannot throw a parameter far.
#ifndef TFLM_ZO_KERNELS_MOMENTUM_H_
#define TFLM_ZO_KERNELS_MOMENTUM_H_

#include <cstdint>

namespace tflm_zo {

constexpr int32_t kMomentumWords = 2;  // floats of state for each element

// State in a float tensor, all zero at the start: for each of `count` elements its momentum, then
// for each the part of its steps that is still below one code.
class Momentum {
 public:
  static constexpr int32_t Words(int32_t count) { return kMomentumWords * count; }

  // `state` may be nullptr: then there is none to be asked for.
  Momentum(float* state, int32_t count)
      : momentum_(state), fraction_(state == nullptr ? nullptr : state + count) {}

  // The sign of element i's momentum after `gradient`: -1, 0 or 1.
  float Direction(int32_t i, float gradient) const {
    momentum_[i] = kDecay * momentum_[i] + gradient;
    return momentum_[i] > 0.0f ? 1.0f : (momentum_[i] < 0.0f ? -1.0f : 0.0f);
  }

  // Adds `step` (codes) to what is left of element i's earlier steps, and takes the whole codes
  // out.
  int32_t WholeCodes(int32_t i, float step) const {
    float sum = fraction_[i] + step;
    // Far from what any step is; the negated comparison also takes what is not a number.
    if (!(sum > -kMostCodes && sum < kMostCodes)) sum = 0.0f;
    const auto whole = static_cast<int32_t>(sum);
    fraction_[i] = sum - static_cast<float>(whole);
    return whole;
  }

 private:
  static constexpr float kDecay = 0.9f;
  static constexpr float kMostCodes = 2147483648.0f;  // that an int32 holds

  float* momentum_;
  float* fraction_;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_MOMENTUM_H_
