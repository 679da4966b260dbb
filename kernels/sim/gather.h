// SPDX-License-Identifier: Apache-2.0
//
// Operators that only move codes: each output element is an input's, or a constant.
#ifndef TFLM_ZO_SIM_GATHER_H_
#define TFLM_ZO_SIM_GATHER_H_

#include <cstdint>
#include <vector>

#include "layer.h"

namespace tflm_zo {
namespace sim {

class GatherLayer : public Layer {
 public:
  // `sizes`: elements of each input, per sample. `places`: for each output element of a sample the
  // element counted through all inputs, or -1 for the one of `fill`.
  GatherLayer(const std::vector<int64_t>& sizes, const std::vector<int32_t>& places,
              std::vector<int8_t> fill);

  void Run(const LayerIo& io) override;

 private:
  // Elements that lie together in an input and in the output.
  struct Stretch {
    int32_t input;
    int64_t from;
    int64_t to;
    int64_t count;
  };

  std::vector<int64_t> sizes_;
  std::vector<int8_t> fill_;
  bool fills_ = false;
  std::vector<Stretch> stretches_;
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_GATHER_H_
