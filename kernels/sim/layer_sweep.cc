// SPDX-License-Identifier: Apache-2.0
#include "layer_sweep.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "command_parts.h"

namespace tflm_zo {
namespace sim {

LayerSweep::LayerSweep(const TrainedModel& model, const PassPlan& plan, const SweepRange& range,
                       std::vector<int32_t> read_by_ops)
    : model_(model),
      plan_(plan),
      passes_(range.passes),
      layers_(range.layers),
      read_by_ops_(std::move(read_by_ops)),
      perturbed_layers_(plan.PerturbedLayers(range.passes)) {
  FindWeightGroups();
  // With the same weights in all passes no layer needs to be run group by group.
  if (first_pass_.size() == 1) perturbed_layers_ = {layers_.end, layers_.end};
}

void LayerSweep::FindWeightGroups() {
  for (int32_t pass = passes_.begin; pass < passes_.end; ++pass) {
    if (pass == passes_.begin || !plan_.SameWeights(pass - 1, pass)) first_pass_.push_back(pass);
    group_of_pass_.push_back(static_cast<int32_t>(first_pass_.size()) - 1);
  }
}

void LayerSweep::Run(LiveTensors* live) {
  // Layers outside perturbed_layers_ have clean weights in the state of any of these passes.
  SetWeights(passes_.begin);
  SharedRows rows = RowsAtStart(*live);
  for (int32_t layer = layers_.begin; layer < layers_.end;) {
    const Stretch stretch = NextStretch(layer);
    const bool first_perturbed = layer == perturbed_layers_.begin || layer == layers_.begin;
    if (stretch.perturbed && first_perturbed) {
      rows = SplitRows(*rows, [&](int32_t pass) { return group_of_pass_[pass - passes_.begin]; });
    }
    RunStretch(stretch, rows, live);
    if (stretch.node != nullptr) rows = PerturbOutput(*stretch.node, rows, live);
    layer = stretch.layers.end;
  }
  DropUnneeded(live);
}

// Passes share a row if they agree in all values that these or later layers read.
SharedRows LayerSweep::RowsAtStart(const LiveTensors& live) const {
  SharedRows rows = OneRow(passes_);
  for (const auto& entry : live) {
    if (!model_.graph->IsRead(entry.first, layers_.begin)) continue;
    const Rows& of_tensor = *entry.second.rows;
    rows = SplitRows(*rows, [&](int32_t pass) { return of_tensor.Of(pass); });
  }
  return rows;
}

// A stretch ends where perturbed layers begin or end, and after the first node that is perturbed.
LayerSweep::Stretch LayerSweep::NextStretch(int32_t first_layer) const {
  Stretch stretch{{first_layer, layers_.end}, perturbed_layers_.Contains(first_layer), nullptr};
  int32_t& end = stretch.layers.end;
  if (first_layer < perturbed_layers_.begin) end = std::min(end, perturbed_layers_.begin);
  if (stretch.perturbed) end = std::min(end, perturbed_layers_.end);
  for (const NodePlace& node : model_.training->nodes) {
    if (node.closed_form || !stretch.layers.Contains(node.layer) || !PerturbsNode(node)) continue;
    stretch.node = &node;
    end = node.layer + 1;
  }
  return stretch;
}

bool LayerSweep::PerturbsNode(const NodePlace& node) const {
  for (int32_t pass = passes_.begin; pass < passes_.end; ++pass) {
    if (plan_.PerturbsNode(pass, node)) return true;
  }
  return false;
}

// Runs the stretch on all rows. Where passes differ in their weights, it does so group by group:
// the rows of a group lie together, in the order of the groups.
void LayerSweep::RunStretch(const Stretch& stretch, const SharedRows& rows, LiveTensors* live) {
  Bindings bindings;
  BindInputs(stretch, rows, live, &bindings);
  BindOutputs(stretch, rows, live, &bindings);
  if (!stretch.perturbed) {
    RunRows(stretch.layers, {0, rows->count}, bindings);
    return;
  }
  for (size_t group = 0; group < first_pass_.size(); ++group) {
    const bool last = group + 1 == first_pass_.size();
    SetWeights(first_pass_[group]);
    RunRows(stretch.layers,
            {rows->Of(first_pass_[group]), last ? rows->count : rows->Of(first_pass_[group + 1])},
            bindings);
  }
}

// Brings the tensors that are read by the stretch, or by layers behind it, into the order of
// `rows`.
void LayerSweep::BindInputs(const Stretch& stretch, const SharedRows& rows, LiveTensors* live,
                            Bindings* bindings) const {
  for (auto& [tensor, values] : *live) {
    const bool read = Reads(stretch.layers, tensor);
    // A tensor that only ops read may keep the order of an earlier stretch.
    if (!read && !model_.graph->IsRead(tensor, stretch.layers.end)) continue;
    if (values.rows->of_pass != rows->of_pass || values.rows->passes.begin != rows->passes.begin) {
      const Values before = values;
      values = GatherValues(rows, before.bytes, [&](int32_t pass) { return before.OfPass(pass); });
    }
    if (read) bindings->push_back({tensor, values.data.get()});
  }
}

void LayerSweep::BindOutputs(const Stretch& stretch, const SharedRows& rows, LiveTensors* live,
                             Bindings* bindings) const {
  for (int32_t layer = stretch.layers.begin; layer < stretch.layers.end; ++layer) {
    if (!KeepsOutput(stretch, layer)) continue;
    const int32_t tensor = model_.graph->Output(layer);
    Values values = NewValues(rows, model_.graph->TensorBytes(tensor));
    bindings->push_back({tensor, values.data.get()});
    live->emplace_back(tensor, std::move(values));
  }
}

bool LayerSweep::Reads(Range layers, int32_t tensor) const {
  for (int32_t layer = layers.begin; layer < layers.end; ++layer) {
    const std::vector<int32_t>& inputs = model_.graph->Inputs(layer);
    if (std::find(inputs.begin(), inputs.end(), tensor) != inputs.end()) return true;
  }
  return false;
}

bool LayerSweep::KeepsOutput(const Stretch& stretch, int32_t layer) const {
  const int32_t tensor = model_.graph->Output(layer);
  return model_.graph->IsRead(tensor, stretch.layers.end) || ReadByOps(tensor) ||
         (stretch.node != nullptr && stretch.node->output == tensor);
}

void LayerSweep::RunRows(Range layers, Range rows, const Bindings& bindings) {
  RunRequest request{layers.begin, layers.end, rows.size(), bindings, -1, nullptr};
  for (Binding& binding : request.bindings) {
    binding.data += rows.begin * model_.graph->TensorBytes(binding.tensor);
  }
  const std::string error = model_.graph->Run(request);
  if (!error.empty()) throw std::runtime_error(error);
}

// Lets the node's op perturb its layer's output. Each pass that asks for it gets a row of its own;
// returns the rows from here on.
SharedRows LayerSweep::PerturbOutput(const NodePlace& node, const SharedRows& rows,
                                     LiveTensors* live) {
  const SharedRows split =
      SplitRows(*rows, [&](int32_t pass) { return plan_.PerturbsNode(pass, node) ? pass : -1; });
  Values* output = Find(live, node.output);
  if (output == nullptr) return split;
  Values values =
      GatherValues(split, output->bytes, [&](int32_t pass) { return output->OfPass(pass); });
  for (int32_t pass = passes_.begin; pass < passes_.end; ++pass) {
    if (!plan_.PerturbsNode(pass, node)) continue;
    model_.ops->Point(node.output, values.OfPass(pass));
    model_.ops->RunParameterOp(WeightAndNodePerturbation(plan_[pass].command));
    model_.ops->RunNodeOp(node.op);
  }
  *output = std::move(values);
  return split;
}

bool LayerSweep::ReadByOps(int32_t tensor) const {
  return std::find(read_by_ops_.begin(), read_by_ops_.end(), tensor) != read_by_ops_.end();
}

void LayerSweep::DropUnneeded(LiveTensors* live) const {
  const auto unneeded = [&](const auto& entry) {
    return !model_.graph->IsRead(entry.first, layers_.end) && !ReadByOps(entry.first);
  };
  live->erase(std::remove_if(live->begin(), live->end(), unneeded), live->end());
}

// Brings the weights to the state of a pass.
void LayerSweep::SetWeights(int32_t pass) {
  model_.ops->RunParameterOp(WeightPerturbation(plan_[pass].command));
}

}  // namespace sim
}  // namespace tflm_zo
