// SPDX-License-Identifier: Apache-2.0
//
// MEAN over axes that lie next to each other.
#ifndef TFLM_ZO_SIM_MEAN_H_
#define TFLM_ZO_SIM_MEAN_H_

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "layer.h"
#include "sim_api.h"

namespace tflm_zo {
namespace sim {

class MeanLayer : public Layer {
 public:
  MeanLayer(const KernelTable* kernels, const TflmZoSimMeanParams& params);

  void Run(const LayerIo& io) override;

 private:
  const KernelTable* kernels_;
  TflmZoSimMeanParams params_;
  std::vector<int32_t> sums_;  // of one block, `inner` elements
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_MEAN_H_
