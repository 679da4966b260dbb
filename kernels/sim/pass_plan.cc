// SPDX-License-Identifier: Apache-2.0
#include "pass_plan.h"

#include <algorithm>
#include <utility>

namespace tflm_zo {
namespace sim {

PassPlan::PassPlan(const TrainingGraph& graph, const ParameterState& state,
                   std::vector<Pass> passes)
    : graph_(graph),
      settings_(Settings(GetSession(state))),
      node_settings_(NodeSettings(GetSession(state))),
      passes_(std::move(passes)) {
  change_.reserve(passes_.size());
  int32_t before = graph_.layers;
  for (const Pass& pass : passes_) {
    change_.push_back(std::min(before, ChangeAtStart(pass.command)));
    before = ChangeAtEnd(pass.command);
  }
}

int32_t PassPlan::ChangeAtStart(const Command& command) const {
  if (command.actions & kInitialise) return 0;
  int32_t first = graph_.layers;
  if ((command.actions & kUpdate) == 0) return first;
  for (int32_t p = command.update_first; p < command.update_last; ++p) {
    if (settings_[p].sigma == 0 || settings_[p].rate == 0.0f) continue;
    first = std::min(first, graph_.parameters[p].first_layer);
  }
  return first;
}

int32_t PassPlan::ChangeAtEnd(const Command& command) const {
  int32_t first = graph_.layers;
  if ((command.actions & kHeadUpdate) && graph_.head_layer >= 0) first = graph_.head_layer;
  for (const NodePlace& node : graph_.nodes) {
    const bool held_back = node.accumulates && !(command.actions & kNodeApply);
    if (!held_back && UpdatesNode(command, node)) first = std::min(first, node.first_change);
  }
  return first;
}

int32_t PassPlan::FirstChange(Range passes) const {
  int32_t first = graph_.layers;
  for (int32_t i = passes.begin + 1; i < passes.end; ++i) first = std::min(first, change_[i]);
  return first;
}

bool PassPlan::ChangesBefore(int32_t pass, int32_t layer) const { return change_[pass] <= layer; }

bool PassPlan::PerturbsWeights(const Command& command) const {
  if (command.sign == 0) return false;
  for (int32_t p = command.first; p < command.last; ++p) {
    if (settings_[p].sigma != 0) return true;
  }
  return false;
}

bool PassPlan::SameWeights(int32_t a, int32_t b) const {
  const Command& x = passes_[a].command;
  const Command& y = passes_[b].command;
  if (x.sign == y.sign && x.seed == y.seed && x.query == y.query && x.first == y.first &&
      x.last == y.last) {
    return true;
  }
  return !PerturbsWeights(x) && !PerturbsWeights(y);
}

Range PassPlan::PerturbedLayers(Range passes) const {
  Range layers{graph_.layers, 0};
  for (int32_t i = passes.begin; i < passes.end; ++i) {
    const Command& command = passes_[i].command;
    if (command.sign == 0) continue;
    for (int32_t p = command.first; p < command.last; ++p) {
      if (settings_[p].sigma == 0) continue;
      layers.begin = std::min(layers.begin, graph_.parameters[p].first_layer);
      layers.end = std::max(layers.end, graph_.parameters[p].last_layer + 1);
    }
  }
  return layers;
}

bool PassPlan::PerturbsNode(int32_t pass, const NodePlace& node) const {
  const Command& command = passes_[pass].command;
  return !node.closed_form && command.sign != 0 && node_settings_[node.number].sigma != 0 &&
         Range{command.node_first, command.node_last}.Contains(node.number);
}

bool PassPlan::VisitsNode(int32_t pass, const NodePlace& node) const {
  const Command& command = passes_[pass].command;
  if ((command.actions & kMeasure) != 0) {
    return Range{command.node_first, command.node_last}.Contains(node.number);
  }
  return UpdatesNode(command, node);
}

bool PassPlan::UpdatesNode(const Command& command, const NodePlace& node) const {
  const NodeSetting& setting = node_settings_[node.number];
  if (setting.rate == 0.0f) return false;
  if (node.closed_form) return (command.actions & kHeadUpdate) != 0;
  return (command.actions & kNodeUpdate) != 0 && setting.sigma != 0 &&
         Range{command.update_first, command.update_last}.Contains(node.number);
}

int32_t PassPlan::FrozenLayers() const {
  int32_t frozen = graph_.head_layer >= 0 ? graph_.head_layer : graph_.layers;
  for (size_t p = 0; p < graph_.parameters.size(); ++p) {
    if (settings_[p].sigma != 0) frozen = std::min(frozen, graph_.parameters[p].first_layer);
  }
  for (const NodePlace& node : graph_.nodes) {
    const NodeSetting& setting = node_settings_[node.number];
    if (setting.rate != 0.0f) frozen = std::min({frozen, node.first_change, node.layer});
    if (setting.sigma != 0) frozen = std::min(frozen, node.layer);
  }
  return frozen;
}

}  // namespace sim
}  // namespace tflm_zo
