// SPDX-License-Identifier: Apache-2.0
//
// What drives training: the command that a caller sets before an Invoke(), the session that the ops
// share, and the report that a pass leaves behind. All three are ordinary tensors of the patched
// model.
#ifndef TFLM_ZO_KERNELS_SESSION_H_
#define TFLM_ZO_KERNELS_SESSION_H_

#include <cstdint>

#include "mask.h"

namespace tflm_zo {

// First word of a command. Without it the pass is plain inference with clean weights, so a caller
// that knows nothing of training, or leaves the command tensor uninitialised, gets the model as it
// stands.
constexpr uint32_t kCommandMagic = 0x5A4F434Du;
constexpr uint32_t kSessionMagic = 0x5A4F5345u;
constexpr uint32_t kReportMagic = 0x5A4F5245u;

constexpr int kMaxQueries = 64;

// Bits of Command::actions. The parameter op carries them out in this order; loss and head follow
// in the same pass.
enum Action : uint32_t {
  kInitialise = 1u << 0,  // weights back to the values in flash
  kUpdate = 1u << 1,      // apply the weight-perturbation update of the queries evaluated so far
  kForwardDifference = 1u << 2,  // ... measured against the clean loss instead of antithetically
  kClearLosses = 1u << 3,        // start a new set of queries
  kLoss = 1u << 4,               // compute the loss of this pass
  kAccumulate = 1u << 5,         // ... and add it to the table, with the sign of the perturbation
  kHeadUpdate = 1u << 6,  // exact-gradient update of the head, and of a layer before it, from this
                          // (clean) pass
  kNodeUpdate = 1u << 7,  // node-perturbation update from the queries evaluated so far and from the
                          // activations of this (clean) pass
  kNodeApply = 1u << 8,   // ... and apply what nodes with an accumulator have collected
  kNodeBegin = 1u << 9,   // ... and collect anew: a step that broke off may have left something
  kMeasure = 1u << 10,    // report how large gradients are, see Report; changes no weight
};

// Content of the input tensor "zo/command" (int32[20]). The parameter op clears `magic` once it has
// read the command, so that a command is carried out once even if the caller sets the other inputs
// only.
struct Command {
  uint32_t magic;
  uint32_t actions;
  // State the model is to be in during this pass: w + sign * sigma * u(seed, query) for parameters
  // [first, last), y + sign * sigma * u(seed, query) for the outputs of nodes [node_first,
  // node_last).
  int32_t sign;  // -1, 0 (clean) or +1
  uint32_t seed;
  int32_t query;  // 0 .. kMaxQueries - 1; also the slot of the loss table
  int32_t first;
  int32_t last;
  int32_t node_first;
  int32_t node_last;
  // The update that kUpdate applies to parameters [update_first, update_last) before the
  // perturbation above, or kNodeUpdate to nodes of that range during the pass.
  uint32_t update_seed;
  int32_t update_queries;
  int32_t update_first;
  int32_t update_last;
  float update_scale;  // 1 / (queries * batch), antithetic: 1 / (2 * queries * batch)
  float update_rate;   // factor of the parameters' learning rates
  float head_rate;     // learning rate of the exact head, in the float model's units
  uint32_t head_seed;  // seed of its stochastic rounding
  float node_rate;     // factor of the nodes' learning rates
  uint32_t reserved[2];
};
constexpr int kCommandWords = sizeof(Command) / sizeof(int32_t);
static_assert(kCommandWords == 20, "patched models have this tensor");

// Per-parameter hyperparameters.
struct Setting {
  int32_t sigma;  // perturbation in codes; 0: not perturbed, not updated
  float rate;     // learning rate in the float model's units
  Mask mask;
};

// Per-node hyperparameters.
struct NodeSetting {
  int32_t sigma;  // perturbation in output codes; 0: not perturbed
  int32_t block;  // positions of a block of this side share a sign; 0: the whole map does
  float rate;     // learning rate in the float model's units
  Mask mask;      // of output channels, whichever it is
};
static_assert(sizeof(Setting) == 12 && sizeof(NodeSetting) == 16, "patched models hold them");

// Content of the variable tensor "zo/session", zeroed by AllocateTensors and Reset: head, then one
// Setting for each parameter, then one NodeSetting for each node.
struct Session {
  uint32_t magic;
  // Perturbation that the weights are in now.
  int32_t sign;
  uint32_t seed;
  int32_t query;
  int32_t first;
  int32_t last;
  int32_t parameter_count;
  // The present pass, for the ops downstream.
  uint32_t actions;
  int32_t node_first;  // perturbed
  int32_t node_last;
  int32_t update_first;  // updated, if kNodeUpdate
  int32_t update_last;
  uint32_t update_seed;
  int32_t update_queries;
  float node_rate;
  float head_rate;
  uint32_t head_seed;
  float layer_energy;         // of the nodes that this pass measures, see Report
  float base_loss;            // sum of losses at the clean weights
  uint32_t state_address[2];  // of the parameter op's state, low word first
  float losses[kMaxQueries];  // per query: sum of sign * loss; slopes during an update
};
constexpr int kSessionWords = sizeof(Session) / sizeof(int32_t);
static_assert(kSessionWords == 85, "patched models have this tensor");

inline Setting* Settings(Session* session) { return reinterpret_cast<Setting*>(session + 1); }

inline NodeSetting* NodeSettings(Session* session) {
  return reinterpret_cast<NodeSetting*>(Settings(session) + session->parameter_count);
}

// Content of the output tensor "zo/report" (int32[8]).
struct Report {
  uint32_t magic;
  float loss;          // of this pass, if kLoss was asked for
  int32_t prediction;  // index of the largest logit; of a map, at its first position
  // Squared length of the head's real-valued input: the curvature of the head's loss is at most
  // half of it, which tells what learning rate the head bears. Of a map the mean over its
  // positions.
  float feature_energy;
  uint32_t state_address[2];
  // If kMeasure was asked for. The first is the squared length of dL/dlogits. The second belongs to
  // the nodes of the command's range: closed forms first get a dL/dlogits of length 1, and report
  // the squared length of the gradient of their weights and biases that follows from it; layers
  // trained by node perturbation report that of an output channel, on average, whose dL/dy is 1
  // wherever it is not saturated. Real units, summed over the nodes. Of a map the first is that
  // length times the number of positions, and closed forms divide by as much: its loss is a mean.
  float gradient_energy;
  float layer_energy;
};
constexpr int kReportWords = sizeof(Report) / sizeof(int32_t);
static_assert(kReportWords == 8, "patched models have this tensor");

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_SESSION_H_
