// SPDX-License-Identifier: Apache-2.0
//
// BATCH_MATMUL: products of matrices that are both computed, or one of them.
#ifndef TFLM_ZO_SIM_MATMUL_H_
#define TFLM_ZO_SIM_MATMUL_H_

#include <cstdint>
#include <vector>

#include "layer.h"
#include "operand.h"
#include "sim_api.h"

namespace tflm_zo {
namespace sim {

class MatmulLayer : public Layer {
 public:
  // `left` [batches][rows][depth], `right` [batches][columns][depth].
  MatmulLayer(const TflmZoSimMatmulParams& params, Operand left, Operand right);

  void Run(const LayerIo& io) override;

 private:
  TflmZoSimMatmulParams params_;
  Operand left_;
  Operand right_;
  std::vector<int8_t> gathered_[2];
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_MATMUL_H_
