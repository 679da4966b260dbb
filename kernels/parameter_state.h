// SPDX-License-Identifier: Apache-2.0
//
// The trainable tensors of a patched model between passes: where they lie in the arena, their
// hyperparameters, and writing them.
#ifndef TFLM_ZO_KERNELS_PARAMETER_STATE_H_
#define TFLM_ZO_KERNELS_PARAMETER_STATE_H_

#include <cstdint>

#include "mask.h"
#include "op_options.h"
#include "session.h"
#include "tflm_adapter.h"

namespace tflm_zo {

// State of the parameter op. Every pass leaves its address in the report, so that a caller can read
// and write the trained weights where they lie, without a copy in RAM.
struct ParameterState {
  const ParameterOptions* options;
  Context* context;
  Node* node;
};

// One parameter tensor in the arena.
struct ParameterView {
  const ParameterEntry* entry;
  void* data;           // element type by entry->kind
  const void* initial;  // the same type, in flash; nullptr: initial values are 0
  int32_t count;        // elements
  float* moments;       // momentum state, or nullptr
};

// Parameter `index` of 0 .. parameter_count - 1; false if there is none.
bool GetParameter(const ParameterState& state, int32_t index, ParameterView* view);

Session* GetSession(const ParameterState& state);

// Sets sigma (codes, 0 .. headroom), learning rate and mask of a parameter; false if a value is out
// of range.
bool Configure(const ParameterState& state, int32_t index, int32_t sigma, float rate,
               Mask mask = {});

// Sets sigma (output codes, 0 .. 127), block, learning rate and mask of a node; false if a value is
// out of range. All outputs of a channel within `block` x `block` positions are perturbed with the
// same sign; 0: all outputs of the channel.
bool ConfigureNode(const ParameterState& state, int32_t node, int32_t sigma, int32_t block,
                   float rate, Mask mask = {});

// Replaces the values of a parameter, say by those of a checkpoint. False, with nothing written, if
// the count is wrong or a value could not be perturbed reversibly.
bool WriteParameter(const ParameterState& state, int32_t index, const void* data, int32_t count);

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_PARAMETER_STATE_H_
