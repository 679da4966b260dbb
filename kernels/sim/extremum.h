// SPDX-License-Identifier: Apache-2.0
//
// REDUCE_MAX and REDUCE_MIN over any axes.
#ifndef TFLM_ZO_SIM_EXTREMUM_H_
#define TFLM_ZO_SIM_EXTREMUM_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "layer.h"

namespace tflm_zo {
namespace sim {

class ExtremumLayer : public Layer {
 public:
  // `places`: `count` elements of the input for each element of the output, per sample.
  ExtremumLayer(int64_t input_bytes, std::vector<int32_t> places, int32_t count, bool maximum)
      : input_bytes_(input_bytes), places_(std::move(places)), count_(count), maximum_(maximum) {}

  void Run(const LayerIo& io) override;

 private:
  int64_t input_bytes_;
  std::vector<int32_t> places_;
  int32_t count_;
  bool maximum_;
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_EXTREMUM_H_
