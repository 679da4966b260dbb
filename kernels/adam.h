// SPDX-License-Identifier: Apache-2.0
//
// Adam (Kingma & Ba, 2015, algorithm 1) for the few parameters that have moments: its steps do not
// depend on the scale of the gradient, so one learning rate serves all drifts.
#ifndef TFLM_ZO_KERNELS_ADAM_H_
#define TFLM_ZO_KERNELS_ADAM_H_

#include <cmath>
#include <cstdint>

namespace tflm_zo {

// State in a float tensor: progress of the bias corrections, then m and v for each of `count`
// elements. All zero at the start.
class Adam {
 public:
  static constexpr int32_t Words(int32_t count) { return 2 + 2 * count; }

  Adam(float* state, int32_t count) : progress_(state), m_(state + 2), v_(state + 2 + count) {}

  // Call once for each update, before Direction: 1 - beta^t from 1 - beta^(t-1).
  void NextStep() const {
    progress_[0] = kBeta1 * progress_[0] + (1.0f - kBeta1);
    progress_[1] = kBeta2 * progress_[1] + (1.0f - kBeta2);
  }

  // Step of element i in units of the learning rate, from its gradient.
  float Direction(int32_t i, float gradient) const {
    m_[i] = kBeta1 * m_[i] + (1.0f - kBeta1) * gradient;
    v_[i] = kBeta2 * v_[i] + (1.0f - kBeta2) * (gradient * gradient);
    // IEEE-754 requires square roots to be rounded correctly, so they agree everywhere.
    return (m_[i] / progress_[0]) / (std::sqrt(v_[i] / progress_[1]) + kEpsilon);
  }

 private:
  static constexpr float kBeta1 = 0.9f;
  static constexpr float kBeta2 = 0.99f;
  static constexpr float kEpsilon = 1e-12f;

  float* progress_;
  float* m_;
  float* v_;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_ADAM_H_
