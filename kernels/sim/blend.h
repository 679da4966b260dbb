// SPDX-License-Identifier: Apache-2.0
//
// RESIZE_BILINEAR: each output element is a weighted mean of four of the input.
#ifndef TFLM_ZO_SIM_BLEND_H_
#define TFLM_ZO_SIM_BLEND_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "layer.h"

namespace tflm_zo {
namespace sim {

constexpr int32_t kBlendFractionBits = 20;  // of the four weights, whose sum is 1
constexpr int32_t kBlended = 4;

class BlendLayer : public Layer {
 public:
  // `places` and `weights`: kBlended for each output element of a sample.
  BlendLayer(int64_t input_bytes, std::vector<int32_t> places, std::vector<int32_t> weights)
      : input_bytes_(input_bytes), places_(std::move(places)), weights_(std::move(weights)) {}

  void Run(const LayerIo& io) override;

 private:
  int64_t input_bytes_;
  std::vector<int32_t> places_;
  std::vector<int32_t> weights_;
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_BLEND_H_
