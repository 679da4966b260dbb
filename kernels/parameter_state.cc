// SPDX-License-Identifier: Apache-2.0
#include "parameter_state.h"

#include <cstring>

#include "parameter_op.h"
#include "parameter_perturbation.h"
#include "perturbation.h"
#include "weight_step.h"

namespace tflm_zo {
namespace {

// Whether these values can be perturbed and restored exactly.
template <typename T>
bool Reversible(const T* values, const ParameterView& view, int32_t limit) {
  const auto* initial = static_cast<const T*>(view.initial);
  const int32_t headroom = view.entry->headroom;
  for (int32_t i = 0; i < view.count; ++i) {
    if (HasHeadroom(initial[i], limit, headroom) && !HasHeadroom(values[i], limit, headroom)) {
      return false;
    }
  }
  return true;
}

}  // namespace

Session* GetSession(const ParameterState& state) {
  return static_cast<Session*>(
      TensorData(InputTensor(state.context, state.node, kParameterSession)));
}

bool GetParameter(const ParameterState& state, int32_t index, ParameterView* view) {
  if (index < 0 || index >= state.options->parameter_count) return false;
  view->entry = Entries(state.options) + index;
  const EvalTensor* variable = InputTensor(state.context, state.node, view->entry->variable_input);
  const EvalTensor* initial = InputTensor(state.context, state.node, view->entry->initial_input);
  view->data = TensorData(variable);
  view->initial = initial == nullptr ? nullptr : TensorData(initial);
  view->count = ElementCount(variable);
  const EvalTensor* moments = InputTensor(state.context, state.node, view->entry->moments_input);
  view->moments = moments == nullptr ? nullptr : static_cast<float*>(TensorData(moments));
  return true;
}

bool Configure(const ParameterState& state, int32_t index, int32_t sigma, float rate, Mask mask) {
  ParameterView view;
  if (!GetParameter(state, index, &view) || view.entry->initial_input < 0) return false;
  // The negated comparison also refuses a NaN.
  if (sigma < 0 || sigma > view.entry->headroom || !(rate >= 0.0f && rate < 1e30f)) return false;
  if (!mask.Valid()) return false;
  RestoreClean(state);  // a perturbation is taken back with the settings it was made with
  Settings(GetSession(state))[index] = Setting{sigma, rate, mask};
  return true;
}

bool ConfigureNode(const ParameterState& state, int32_t node, int32_t sigma, int32_t block,
                   float rate, Mask mask) {
  if (node < 0 || node >= state.options->node_count) return false;
  if (sigma < 0 || sigma > 127 || block < 0 || !(rate >= 0.0f && rate < 1e30f)) return false;
  if (!mask.Valid()) return false;
  NodeSettings(GetSession(state))[node] = NodeSetting{sigma, block, rate, mask};
  return true;
}

bool WriteParameter(const ParameterState& state, int32_t index, const void* data, int32_t count) {
  ParameterView view;
  if (!GetParameter(state, index, &view) || count != view.count) return false;
  if (view.entry->kind == kWeights &&
      !Reversible(static_cast<const int8_t*>(data), view, kMaxWeight)) {
    return false;
  }
  if (view.entry->kind == kBias && !Reversible(static_cast<const int32_t*>(data), view, kMaxBias)) {
    return false;
  }
  RestoreClean(state);
  std::memcpy(view.data, data, static_cast<size_t>(count) * ElementBytes(view.entry->kind));
  return true;
}

}  // namespace tflm_zo
