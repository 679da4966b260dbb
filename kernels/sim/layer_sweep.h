// SPDX-License-Identifier: Apache-2.0
//
// Runs a range of layers for a range of passes: a layer once for all passes that share its input
// and its weights, with each of the perturbations that the passes ask for.
#ifndef TFLM_ZO_SIM_LAYER_SWEEP_H_
#define TFLM_ZO_SIM_LAYER_SWEEP_H_

#include <cstdint>
#include <vector>

#include "graph.h"
#include "pass_plan.h"
#include "pass_values.h"
#include "range.h"
#include "training_ops.h"

namespace tflm_zo {
namespace sim {

// A patched model: its layers, what of them depends on training, and its training ops.
struct TrainedModel {
  Graph* graph;
  const TrainingGraph* training;
  TrainingOps* ops;
};

// What to sweep. No weights of these layers may change for good between the passes.
struct SweepRange {
  Range passes;
  Range layers;
};

class LayerSweep {
 public:
  // `plan` must outlive the sweep. `read_by_ops`: tensors that training ops read later, so that
  // they are kept although no further layer may need them.
  LayerSweep(const TrainedModel& model, const PassPlan& plan, const SweepRange& range,
             std::vector<int32_t> read_by_ops);

  // `live` has the values that the layers start from; afterwards those that later layers or
  // training ops read. Throws std::runtime_error if the engine or an op fails.
  void Run(LiveTensors* live);

 private:
  // Layers that run without an interruption by training ops.
  struct Stretch {
    Range layers;
    bool perturbed;         // passes may have different weights in these layers
    const NodePlace* node;  // its op perturbs the output of the last of these layers, or nullptr
  };

  // Values of all rows, by tensor.
  using Bindings = std::vector<Binding>;

  void FindWeightGroups();
  SharedRows RowsAtStart(const LiveTensors& live) const;
  Stretch NextStretch(int32_t first_layer) const;
  bool PerturbsNode(const NodePlace& node) const;
  void RunStretch(const Stretch& stretch, const SharedRows& rows, LiveTensors* live);
  void BindInputs(const Stretch& stretch, const SharedRows& rows, LiveTensors* live,
                  Bindings* bindings) const;
  void BindOutputs(const Stretch& stretch, const SharedRows& rows, LiveTensors* live,
                   Bindings* bindings) const;
  bool Reads(Range layers, int32_t tensor) const;
  bool KeepsOutput(const Stretch& stretch, int32_t layer) const;
  void RunRows(Range layers, Range rows, const Bindings& bindings);
  SharedRows PerturbOutput(const NodePlace& node, const SharedRows& rows, LiveTensors* live);
  bool ReadByOps(int32_t tensor) const;
  void DropUnneeded(LiveTensors* live) const;
  void SetWeights(int32_t pass);

  TrainedModel model_;
  const PassPlan& plan_;
  Range passes_;
  Range layers_;
  std::vector<int32_t> read_by_ops_;
  Range perturbed_layers_;
  // Successive passes with the same weights form a group.
  std::vector<int32_t> first_pass_;     // of each group
  std::vector<int32_t> group_of_pass_;  // [passes_.size()]
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_LAYER_SWEEP_H_
