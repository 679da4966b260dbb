// SPDX-License-Identifier: Apache-2.0
//
// The loss op, last in the patched graph: loss of the pass from logits and target, its sum per
// query, and the exact-gradient update of the head.
//
// Inputs: logits, target, session, features, head weights, head bias, residual (the last four
// absent, -1, where the logits do not come from a plain fully connected layer; the residual also
// where that layer's weights are frozen), mean prediction (entropy only).
// Outputs: report and, where a layer before the head is trained in closed form, dL/dfeatures
// (float).
#ifndef TFLM_ZO_KERNELS_LOSS_OP_H_
#define TFLM_ZO_KERNELS_LOSS_OP_H_

#include "tflm_adapter.h"

namespace tflm_zo {

constexpr const char* kLossOpName = "TFLM_ZO_LOSS";

Registration LossOp();

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_LOSS_OP_H_
