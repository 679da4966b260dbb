// SPDX-License-Identifier: Apache-2.0
//
// PAD: the input within a border of one value.
#ifndef TFLM_ZO_SIM_PAD_H_
#define TFLM_ZO_SIM_PAD_H_

#include <cstdint>
#include <vector>

#include "layer.h"

namespace tflm_zo {
namespace sim {

class PadLayer : public Layer {
 public:
  // `places`: for each output element of a sample the input element, or -1 for the border.
  PadLayer(int64_t input_bytes, const std::vector<int32_t>& places, int8_t value);

  void Run(const LayerIo& io) override;

 private:
  // Elements that lie together in the input and in the output.
  struct Stretch {
    int64_t from;
    int64_t to;
    int64_t count;
  };

  int64_t input_bytes_;
  int64_t output_bytes_;
  int8_t value_;
  std::vector<Stretch> stretches_;
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_PAD_H_
