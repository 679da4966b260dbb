// SPDX-License-Identifier: Apache-2.0
//
// The plugin for TFLM's Python wheel: it registers the ops with the interpreter (tflm_zo/tflm).
#include "host_plugin.h"

#include "loss_op.h"
#include "node_op.h"
#include "parameter_op.h"
#include "tflm_abi.h"

namespace {

using tflm_zo::abi::PythonOpsResolver;

// The resolver's own AddCustom is inlined in the wheel, so the plugin appends to its table as
// AddCustom does.
bool Append(PythonOpsResolver* resolver, tflm_zo::Registration registration, const char* name) {
  if (resolver == nullptr || resolver->count >= PythonOpsResolver::kCapacity) return false;
  registration.builtin_code = tflm_zo::abi::kBuiltinCustom;
  registration.custom_name = name;
  resolver->registrations[resolver->count] = registration;
  resolver->count += 1;
  return true;
}

// Of this thread: interpreters may be made in several at once.
thread_local void* prepared_state = nullptr;

tflm_zo::Status PrepareParameters(tflm_zo::Context* context, tflm_zo::Node* node) {
  const tflm_zo::Status status = tflm_zo::ParameterOp().prepare(context, node);
  if (status == tflm_zo::kOk) prepared_state = node->user_data;
  return status;
}

}  // namespace

void* tflm_zo_take_state() {
  void* state = prepared_state;
  prepared_state = nullptr;
  return state;
}

// Called by TFLM, which looks it up by its name.
TFLM_ZO_EXPORT bool TflmZoRegister(PythonOpsResolver* resolver) {
  tflm_zo::Registration parameters = tflm_zo::ParameterOp();
  parameters.prepare = PrepareParameters;
  return Append(resolver, parameters, tflm_zo::kParameterOpName) &&
         Append(resolver, tflm_zo::LossOp(), tflm_zo::kLossOpName) &&
         Append(resolver, tflm_zo::NodeOp(), tflm_zo::kNodeOpName);
}
