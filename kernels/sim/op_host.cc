// SPDX-License-Identifier: Apache-2.0
#include "op_host.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace tflm_zo {
namespace sim {
namespace {

abi::Type AbiType(ElementType type) {
  switch (type) {
    case ElementType::kInt8:
      return abi::kInt8;
    case ElementType::kInt32:
      return abi::kInt32;
    default:
      return abi::kFloat32;
  }
}

// Memory aligned for any scalar.
std::unique_ptr<uint64_t[]> Allocate(size_t bytes) {
  return std::make_unique<uint64_t[]>(bytes / sizeof(uint64_t) + 1);
}

std::vector<int32_t> WithLength(const std::vector<int32_t>& values) {
  std::vector<int32_t> array{static_cast<int32_t>(values.size())};
  array.insert(array.end(), values.begin(), values.end());
  return array;
}

}  // namespace

OpHost::OpHost(const std::vector<OpTensor>& tensors) {
  dims_.reserve(tensors.size());
  for (const OpTensor& tensor : tensors) {
    dims_.push_back({1, {tensor.elements}});
    tensors_.push_back({tensor.data, &dims_.back(), AbiType(tensor.type)});
  }
  context_.tensors_size = tensors_.size();
  context_.impl = this;
  context_.ReportError = Report;
  context_.AllocatePersistentBuffer = [](Context* context, size_t bytes) -> void* {
    OpHost& host = Of(context);
    host.persistent_.push_back(Allocate(bytes));
    return host.persistent_.back().get();
  };
  context_.RequestScratchBufferInArena = [](Context* context, size_t bytes, int* index) {
    OpHost& host = Of(context);
    *index = static_cast<int>(host.scratch_.size());
    host.scratch_.push_back(Allocate(bytes));
    return kOk;
  };
  context_.GetScratchBuffer = [](Context* context, int index) -> void* {
    return Of(context).scratch_[index].get();
  };
  context_.GetEvalTensor = [](const Context* context, int index) {
    return &Of(context).tensors_[index];
  };
}

void OpHost::Report(Context* context, const char* format, ...) {
  char message[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  Of(context).error_ = message;
}

int32_t OpHost::Add(const Registration& registration, const std::vector<int32_t>& inputs,
                    const std::vector<int32_t>& outputs, const void* options, size_t option_bytes) {
  error_ = "an op could not be prepared";
  for (const std::vector<int32_t>& indices : {inputs, outputs}) {
    for (int32_t index : indices) {
      if (index < -1 || index >= static_cast<int32_t>(tensors_.size())) {
        throw std::out_of_range("an op names a tensor that the model has not");
      }
    }
  }
  auto op = std::make_unique<Op>();
  op->registration = registration;
  op->inputs = WithLength(inputs);
  op->outputs = WithLength(outputs);
  op->options.resize(option_bytes / sizeof(uint32_t) + 1);
  if (option_bytes != 0) std::memcpy(op->options.data(), options, option_bytes);
  op->node = Node{};
  op->node.inputs = reinterpret_cast<abi::IntArray*>(op->inputs.data());
  op->node.outputs = reinterpret_cast<abi::IntArray*>(op->outputs.data());
  const char* bytes = reinterpret_cast<const char*>(op->options.data());
  op->node.user_data = registration.init(&context_, bytes, option_bytes);
  if (registration.prepare(&context_, &op->node) != kOk) return -1;
  ops_.push_back(std::move(op));
  error_.clear();
  return static_cast<int32_t>(ops_.size()) - 1;
}

bool OpHost::Invoke(int32_t op) {
  return ops_[op]->registration.invoke(&context_, &ops_[op]->node) == kOk;
}

}  // namespace sim
}  // namespace tflm_zo
