// SPDX-License-Identifier: Apache-2.0
//
// SOFTMAX in fixed point, int8 to int8 with output scale 1/256 and zero point -128.
#ifndef TFLM_ZO_SIM_SOFTMAX_H_
#define TFLM_ZO_SIM_SOFTMAX_H_

#include <array>
#include <cstdint>

#include "layer.h"

namespace tflm_zo {
namespace sim {

constexpr int32_t kSoftmaxDiffFractionBits = 26;  // of rescaled input differences, Q5.26

class SoftmaxLayer : public Layer {
 public:
  // `rows` rows of `depth` elements per sample; for the rest see tflm_zo_sim_add_softmax.
  SoftmaxLayer(int32_t rows, int32_t depth, int32_t multiplier, int32_t left_shift,
               int32_t diff_min);

  void Run(const LayerIo& io) override;

 private:
  int32_t rows_;
  int32_t depth_;
  int32_t diff_limit_;                // elements further below the maximum count as zero
  std::array<int32_t, 256> exp_;      // exp of minus the scaled difference, Q0.31
  std::array<int32_t, 256> summand_;  // the same in Q12.19
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_SOFTMAX_H_
