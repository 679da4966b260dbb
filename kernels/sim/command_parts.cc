// SPDX-License-Identifier: Apache-2.0
#include "command_parts.h"

namespace tflm_zo {
namespace sim {
namespace {

constexpr uint32_t kWeightChanges = kInitialise | kUpdate;

}  // namespace

bool ChangesWeightsFirst(const Command& command) { return (command.actions & kWeightChanges) != 0; }

Command WeightChanges(const Command& command) {
  Command changes = command;
  changes.actions &= kWeightChanges | kForwardDifference;
  changes.sign = 0;
  changes.first = changes.last = 0;
  changes.node_first = changes.node_last = 0;
  return changes;
}

Command WithoutWeightChanges(const Command& command) {
  Command rest = command;
  rest.actions &= ~kWeightChanges;
  // If weights are updated, the range is one of parameters; node ops must not take it for theirs.
  if (ChangesWeightsFirst(command)) rest.update_first = rest.update_last = 0;
  return rest;
}

Command WeightPerturbation(const Command& command) {
  Command perturbation{};
  perturbation.magic = kCommandMagic;
  perturbation.sign = command.sign;
  perturbation.seed = command.seed;
  perturbation.query = command.query;
  perturbation.first = command.first;
  perturbation.last = command.last;
  return perturbation;
}

Command WeightAndNodePerturbation(const Command& command) {
  Command perturbation = WeightPerturbation(command);
  perturbation.node_first = command.node_first;
  perturbation.node_last = command.node_last;
  return perturbation;
}

}  // namespace sim
}  // namespace tflm_zo
