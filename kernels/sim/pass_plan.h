// SPDX-License-Identifier: Apache-2.0
//
// What the commands of a sequence of passes do to the weights, and so which passes can go through
// which layers together.
#ifndef TFLM_ZO_SIM_PASS_PLAN_H_
#define TFLM_ZO_SIM_PASS_PLAN_H_

#include <cstdint>
#include <vector>

#include "parameter_state.h"
#include "range.h"
#include "session.h"

namespace tflm_zo {
namespace sim {

// Where the layers are that a parameter belongs to: several, if they share the tensor.
struct ParameterPlace {
  int32_t first_layer;
  int32_t last_layer;
};

// A node op: it stands behind layer `layer`, reads that layer's `input` and reads or changes its
// `output` (closed form: reads `output`, whose producer comes later than `layer` where an addition
// lies between), and updates tensors that no layer before `first_change` uses.
struct NodePlace {
  int32_t op;
  int32_t number;
  int32_t layer;
  int32_t first_change;
  int32_t input;
  int32_t output;
  bool closed_form;
  bool accumulates;
};

// The patched model, as far as the order of computations depends on it.
struct TrainingGraph {
  std::vector<ParameterPlace> parameters;
  std::vector<NodePlace> nodes;  // in the order in which their ops run
  int32_t layers;                // those that lead to the logits: [0, layers)
  int32_t head_layer;            // first layer with weights that the loss op updates, or -1
};

// One forward pass of a sequence.
struct Pass {
  Command command;
  int32_t sample;
};

class PassPlan {
 public:
  // `state` must be configured and keep its settings while the plan is used. Layers and passes are
  // named by their index.
  PassPlan(const TrainingGraph& graph, const ParameterState& state, std::vector<Pass> passes);

  int32_t size() const { return static_cast<int32_t>(passes_.size()); }
  const Pass& operator[](int32_t pass) const { return passes_[pass]; }

  // First layer whose weights change for good between two of these passes; the number of layers if
  // none does.
  int32_t FirstChange(Range passes) const;

  // Whether weights of layer `layer` or earlier change for good between passes `pass` - 1 and
  // `pass`.
  bool ChangesBefore(int32_t pass, int32_t layer) const;

  // Whether the weights are in the same perturbed state in both passes.
  bool SameWeights(int32_t a, int32_t b) const;

  // The layers from the first to the last one with weights that any of these passes perturbs; end
  // is below begin if none does.
  Range PerturbedLayers(Range passes) const;

  bool PerturbsNode(int32_t pass, const NodePlace& node) const;
  // Whether the node's op is to see its layer's clean input and output: it updates or measures.
  bool VisitsNode(int32_t pass, const NodePlace& node) const;

  // The first layer with weights or outputs that these settings perturb or update, at most the head
  // itself: what comes before it is the same in every pass of every step.
  int32_t FrozenLayers() const;

 private:
  bool PerturbsWeights(const Command& command) const;
  int32_t ChangeAtStart(const Command& command) const;
  int32_t ChangeAtEnd(const Command& command) const;
  // Whether the node's op updates its layer, or adds to the update that it accumulates.
  bool UpdatesNode(const Command& command, const NodePlace& node) const;

  const TrainingGraph& graph_;
  const Setting* settings_;
  const NodeSetting* node_settings_;
  std::vector<Pass> passes_;
  std::vector<int32_t> change_;  // [i]: first layer that changes between passes i - 1 and i
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_PASS_PLAN_H_
