// SPDX-License-Identifier: Apache-2.0
//
// The parameter op, first in the patched graph: owns every trainable weight and bias, and brings
// them to the state that the command asks for.
//
// Inputs: command, session, then for each parameter its variable tensor and its initial (constant)
// tensor. Outputs: none.
#ifndef TFLM_ZO_KERNELS_PARAMETER_OP_H_
#define TFLM_ZO_KERNELS_PARAMETER_OP_H_

#include "tflm_adapter.h"

namespace tflm_zo {

constexpr const char* kParameterOpName = "TFLM_ZO_PARAMETERS";

Registration ParameterOp();

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_PARAMETER_OP_H_
