// SPDX-License-Identifier: Apache-2.0
//
// ADD of two tensors of the same shape.
#ifndef TFLM_ZO_SIM_ADD_H_
#define TFLM_ZO_SIM_ADD_H_

#include <cstdint>

#include "kernels.h"
#include "layer.h"
#include "sim_api.h"

namespace tflm_zo {
namespace sim {

// Whether the rescaling of one input is an exact half, as it is for the larger of two scales.
bool HasExactHalf(const TflmZoSimAddParams& params);

class AddLayer : public Layer {
 public:
  // `elements`: of each tensor, per sample. HasExactHalf(params) must hold.
  AddLayer(const KernelTable* kernels, int64_t elements, const TflmZoSimAddParams& params);

  void Run(const LayerIo& io) override;

 private:
  const KernelTable* kernels_;
  int64_t elements_;
  bool first_is_larger_;
  AddProblem problem_;
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_ADD_H_
