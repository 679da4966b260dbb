// SPDX-License-Identifier: Apache-2.0
//
// AVERAGE_POOL_2D and MAX_POOL_2D. Padding is left out of a window, not counted as zeros.
#ifndef TFLM_ZO_SIM_POOL_H_
#define TFLM_ZO_SIM_POOL_H_

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "layer.h"
#include "window.h"

namespace tflm_zo {
namespace sim {

enum class Pooling { kAverage, kMaximum };

class PoolLayer : public Layer {
 public:
  PoolLayer(const KernelTable* kernels, Pooling pooling, const Window& window,
            int32_t activation_min, int32_t activation_max);

  void Run(const LayerIo& io) override;

 private:
  const KernelTable* kernels_;
  Pooling pooling_;
  Window window_;
  int32_t activation_min_;
  int32_t activation_max_;
  std::vector<int32_t> reduced_;  // one output pixel before rounding
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_POOL_H_
