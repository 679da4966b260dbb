// SPDX-License-Identifier: Apache-2.0
#include "host_check.h"

#include <cstdarg>
#include <cstdio>
#include <vector>

#include "loss_op.h"
#include "node_op.h"
#include "parameter_op.h"
#include "tflm_adapter.h"

namespace tflm_zo {
namespace {

static_assert(static_cast<int>(CheckedType::kFloat32) == abi::kFloat32 &&
                  static_cast<int>(CheckedType::kInt32) == abi::kInt32 &&
                  static_cast<int>(CheckedType::kUInt8) == abi::kUInt8 &&
                  static_cast<int>(CheckedType::kInt16) == abi::kInt16 &&
                  static_cast<int>(CheckedType::kInt8) == abi::kInt8,
              "types are those of TFLM");

// What TFLM is to an op that is prepared, and never run: tensors have types and sizes, and no
// memory.
class CheckHost {
 public:
  CheckHost(const CheckedOp& op, char* message, int message_bytes)
      : op_(op), message_(message), message_bytes_(message_bytes) {
    dims_.reserve(static_cast<size_t>(op.tensor_count));
    for (int32_t i = 0; i < op.tensor_count; ++i) {
      dims_.push_back({1, {op.tensors[i].elements}});
      tensors_.push_back({nullptr, &dims_.back(), static_cast<abi::Type>(op.tensors[i].type)});
    }
    context_.impl = this;
    context_.tensors_size = tensors_.size();
    context_.ReportError = Report;
    context_.AllocatePersistentBuffer = [](Context* context, size_t bytes) -> void* {
      CheckHost& host = *static_cast<CheckHost*>(context->impl);
      return bytes <= sizeof(host.state_) ? host.state_ : nullptr;
    };
    context_.RequestScratchBufferInArena = [](Context*, size_t, int* index) {
      *index = 0;
      return kOk;
    };
    context_.GetEvalTensor = [](const Context* context, int index) {
      return &static_cast<CheckHost*>(context->impl)->tensors_[static_cast<size_t>(index)];
    };
  }

  bool Accepts(const Registration& registration) {
    std::vector<int32_t> inputs;
    std::vector<int32_t> outputs;
    if (!Read(op_.inputs, op_.input_count, &inputs) ||
        !Read(op_.outputs, op_.output_count, &outputs)) {
      std::snprintf(message_, static_cast<size_t>(message_bytes_),
                    "a training op names a tensor that the model has not");
      return false;
    }
    Node node{};
    node.inputs = reinterpret_cast<abi::IntArray*>(inputs.data());
    node.outputs = reinterpret_cast<abi::IntArray*>(outputs.data());
    node.user_data = registration.init(&context_, static_cast<const char*>(op_.options),
                                       static_cast<size_t>(op_.option_bytes));
    return registration.prepare(&context_, &node) == kOk;
  }

 private:
  static void Report(Context* context, const char* format, ...) {
    const CheckHost& host = *static_cast<CheckHost*>(context->impl);
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(host.message_, static_cast<size_t>(host.message_bytes_), format, arguments);
    va_end(arguments);
  }

  // As TFLM's integer arrays are: the length first. False for indices of no tensor.
  bool Read(const int32_t* indices, int32_t count, std::vector<int32_t>* array) const {
    array->push_back(count);
    for (int32_t i = 0; i < count; ++i) {
      if (indices[i] < -1 || indices[i] >= op_.tensor_count) return false;
      array->push_back(indices[i]);
    }
    return true;
  }

  const CheckedOp& op_;
  char* message_;
  int message_bytes_;
  std::vector<abi::IntArray> dims_;
  std::vector<EvalTensor> tensors_;
  Context context_{};
  alignas(8) uint8_t state_[64];
};

Registration RegistrationOf(int32_t kind) {
  switch (static_cast<TrainingOpKind>(kind)) {
    case TrainingOpKind::kParameters:
      return ParameterOp();
    case TrainingOpKind::kNode:
      return NodeOp();
    default:
      return LossOp();
  }
}

}  // namespace
}  // namespace tflm_zo

int tflm_zo_check_op(const tflm_zo::CheckedOp* op, char* message, int message_bytes) {
  return tflm_zo::CheckHost(*op, message, message_bytes).Accepts(tflm_zo::RegistrationOf(op->kind))
             ? 1
             : 0;
}
