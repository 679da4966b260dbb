// SPDX-License-Identifier: Apache-2.0
//
// Weight perturbation of all parameters that a command names, and the update that follows from the
// losses. perturbation.h does the same for a single tensor.
#ifndef TFLM_ZO_KERNELS_PARAMETER_PERTURBATION_H_
#define TFLM_ZO_KERNELS_PARAMETER_PERTURBATION_H_

#include "parameter_state.h"
#include "session.h"

namespace tflm_zo {

// Removes the perturbation that the weights are in, exactly. The parameter op does so by itself;
// other code calls it before it reads or writes weights between passes.
void RestoreClean(const ParameterState& state);

// Brings the weights to the state that the command asks for: clean or perturbed.
void SetPerturbation(const ParameterState& state, const Command& command);

// Updates parameters [update_first, update_last) of the command. The weights must be clean, and
// Session::losses hold the slopes of the command's directions.
void ApplyWeightUpdate(const ParameterState& state, const Command& command);

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_PARAMETER_PERTURBATION_H_
