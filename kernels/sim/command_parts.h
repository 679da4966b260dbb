// SPDX-License-Identifier: Apache-2.0
//
// The parts of a command that the simulator has the parameter op carry out at different times,
// where TFLM does all of them at the start of the pass.
#ifndef TFLM_ZO_SIM_COMMAND_PARTS_H_
#define TFLM_ZO_SIM_COMMAND_PARTS_H_

#include "session.h"

namespace tflm_zo {
namespace sim {

// Whether the command changes weights for good before the layers run: it resets or updates them.
bool ChangesWeightsFirst(const Command& command);

// Only these changes; the weights are clean afterwards.
Command WeightChanges(const Command& command);

// All but these changes.
Command WithoutWeightChanges(const Command& command);

// Only the perturbation that the weights are to be in.
Command WeightPerturbation(const Command& command);

// The same, and that of the nodes' outputs.
Command WeightAndNodePerturbation(const Command& command);

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_COMMAND_PARTS_H_
