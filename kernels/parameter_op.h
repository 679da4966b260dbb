// SPDX-License-Identifier: Apache-2.0
//
// The parameter op, first in the patched graph: owns every trainable weight and bias, and brings
// them to the state that the command asks for.
//
// Inputs: command, session, then for each parameter its variable tensor and its initial (constant)
// tensor. Outputs: none.
#ifndef TFLM_ZO_KERNELS_PARAMETER_OP_H_
#define TFLM_ZO_KERNELS_PARAMETER_OP_H_

#include <cstdint>

#include "mask.h"
#include "op_options.h"
#include "session.h"
#include "tflm_adapter.h"

namespace tflm_zo {

constexpr const char* kParameterOpName = "TFLM_ZO_PARAMETERS";

Registration ParameterOp();

// The op's state, whose address a pass leaves in the report: through it a caller reads and writes
// the trained weights where they are, without a copy in RAM.
struct ParameterState {
  const ParameterOptions* options;
  Context* context;
  Node* node;
};

// One parameter tensor in the arena.
struct ParameterView {
  const ParameterEntry* entry;
  void* data;           // by entry->kind
  const void* initial;  // nullptr: 0
  int32_t count;        // elements
  float* moments;       // momentum state, or nullptr
};

// Parameter `index` of 0 .. parameter_count - 1; false if there is none.
bool GetParameter(const ParameterState& state, int32_t index, ParameterView* view);

Session* GetSession(const ParameterState& state);

// Brings the weights back from a perturbation, exactly. Called by the op itself; callers need it
// before they read or write weights between passes.
void RestoreClean(const ParameterState& state);

// Sets sigma (codes, 0 .. headroom), learning rate and mask of a parameter; false if a value is out
// of range.
bool Configure(const ParameterState& state, int32_t index, int32_t sigma, float rate,
               Mask mask = {});

// Sets sigma (output codes, 0 .. 127), block (positions a side that share a sign; 0: the whole
// map), learning rate and mask of a node; false if a value is out of range.
bool ConfigureNode(const ParameterState& state, int32_t node, int32_t sigma, int32_t block,
                   float rate, Mask mask = {});

// Writes a parameter (a checkpoint's, say). False, with nothing written, if the count is wrong or a
// value could not be perturbed reversibly.
bool WriteParameter(const ParameterState& state, int32_t index, const void* data, int32_t count);

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_PARAMETER_OP_H_
