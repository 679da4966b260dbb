// SPDX-License-Identifier: Apache-2.0
//
// The parameter op, first in the patched graph: owns every trainable weight and bias, and brings
// them to the state that the command asks for.
//
#ifndef TFLM_ZO_KERNELS_PARAMETER_OP_H_
#define TFLM_ZO_KERNELS_PARAMETER_OP_H_

#include "tflm_adapter.h"

namespace tflm_zo {

constexpr const char* kParameterOpName = "TFLM_ZO_PARAMETERS";

// Inputs by position; then for each parameter its variable tensor, its initial (constant) tensor
// and its momentum state, as far as it has them (ParameterEntry); then what operators of the model
// carry from pass to pass (StateEntry). Outputs: none.
enum ParameterInput : int { kParameterCommand, kParameterSession };

// What TFLM keeps of the op in the arena, in pointers.
constexpr int kParameterStateWords = 3;

Registration ParameterOp();

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_PARAMETER_OP_H_
