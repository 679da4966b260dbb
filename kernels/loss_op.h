// SPDX-License-Identifier: Apache-2.0
//
// The loss op, last in the patched graph: loss of the pass from logits and target, its sum per
// query, and the exact-gradient update of the head.
//
#ifndef TFLM_ZO_KERNELS_LOSS_OP_H_
#define TFLM_ZO_KERNELS_LOSS_OP_H_

#include "tflm_adapter.h"

namespace tflm_zo {

constexpr const char* kLossOpName = "TFLM_ZO_LOSS";

// Inputs by position. Features, head and residual are absent, -1, where the logits do not come from
// a plain fully connected layer, the residual also where that layer's weights are frozen.
enum LossInput : int {
  kLossLogits,
  kLossTarget,
  kLossSession,
  kLossFeatures,
  kLossHeadWeights,
  kLossHeadBias,
  kLossResidual,
  kLossMeanPrediction,  // entropy only
};

enum LossOutput : int {
  kLossReport,
  kLossFeatureGradient,  // dL/dfeatures (float), where a layer before the head has a closed form
};

// What TFLM keeps of the op in the arena, in pointers.
constexpr int kLossStateWords = 2;

Registration LossOp();

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_LOSS_OP_H_
