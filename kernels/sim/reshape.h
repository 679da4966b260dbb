// SPDX-License-Identifier: Apache-2.0
//
// RESHAPE: the bytes stay as they are.
#ifndef TFLM_ZO_SIM_RESHAPE_H_
#define TFLM_ZO_SIM_RESHAPE_H_

#include <cstdint>
#include <cstring>

#include "layer.h"

namespace tflm_zo {
namespace sim {

class ReshapeLayer : public Layer {
 public:
  // `bytes`: of the tensor, per sample.
  explicit ReshapeLayer(int64_t bytes) : bytes_(bytes) {}

  void Run(const LayerIo& io) override {
    std::memcpy(io.output, io.inputs[0], static_cast<size_t>(bytes_ * io.samples));
  }

 private:
  int64_t bytes_;
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_RESHAPE_H_
