// SPDX-License-Identifier: Apache-2.0
//
// The node op: stands where a layer's input and output are live, and trains that layer by its
// output.
//
// After a layer trained by node perturbation it adds the perturbation to the output, in place, in
// evaluation passes; in the update pass it turns the losses into dL/dy and, with the layer's own
// clean input, into the update of weights and bias, so no activation is stored. Layers downstream
// still see the output of the old weights. After the loss op it stands for the last layer before
// the head, whose dL/dy is known in closed form (pooling and head are linear), and updates it
// together with the head. In a pass that measures it reports how large its gradient is (Report in
// session.h).
//
// A closed form has the report, which lies behind the loss op, to add what it measures; other nodes
// leave it to the loss op. If only the bias of a layer is trained, x and weights are absent, and
// the input for the initial weights has the layer's constant weights.
#ifndef TFLM_ZO_KERNELS_NODE_OP_H_
#define TFLM_ZO_KERNELS_NODE_OP_H_

#include "tflm_adapter.h"

namespace tflm_zo {

constexpr const char* kNodeOpName = "TFLM_ZO_NODE";

// Inputs by position; the last five may be absent (-1). Outputs: none.
enum NodeInput : int {
  kNodeSession,
  kNodeLayerInput,
  kNodeLayerOutput,
  kNodeWeights,
  kNodeInitialWeights,
  kNodeBias,
  kNodeInitialBias,
  kNodeFeatureGradient,
  kNodeAccumulator,
  kNodeReport,
};
constexpr int kNodeInputCount = kNodeReport + 1;

// What TFLM keeps of the op in the arena, in pointers.
constexpr int kNodeStateWords = 2;

Registration NodeOp();

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_NODE_OP_H_
