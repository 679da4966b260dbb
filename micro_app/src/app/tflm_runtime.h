// SPDX-License-Identifier: Apache-2.0
//
// A patched model in TFLM's C++ interpreters. The ops touch TFLM in tflm_adapter.h only, the app in
// this file only.
#ifndef TFLM_ZO_MICRO_APP_TFLM_RUNTIME_H_
#define TFLM_ZO_MICRO_APP_TFLM_RUNTIME_H_

#include <cstddef>
#include <cstdint>
#include <new>

#include "model_runtime.h"
#include "tensorflow/lite/micro/micro_allocator.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace tflm_zo {

// One model.
class TflmInterpreter final : public ModelRuntime {
 public:
  TflmInterpreter(const void* model, const tflite::MicroOpResolver& ops,
                  tflite::MicroAllocator* allocator)
      : model_(tflite::GetModel(model)), interpreter_(model_, ops, allocator) {}

  bool Allocate() {
    return model_->version() == TFLITE_SCHEMA_VERSION &&
           interpreter_.AllocateTensors() == kTfLiteOk;
  }

  TensorMemory Input(int index) override {
    const auto i = static_cast<size_t>(index);
    return Memory(i < interpreter_.inputs_size() ? interpreter_.input(i) : nullptr);
  }

  TensorMemory Output(int index) override {
    const auto i = static_cast<size_t>(index);
    return Memory(i < interpreter_.outputs_size() ? interpreter_.output(i) : nullptr);
  }

  bool Invoke() override { return interpreter_.Invoke() == kTfLiteOk; }

 private:
  static TensorMemory Memory(TfLiteTensor* tensor) {
    if (tensor == nullptr) return {nullptr, 0, false};
    return {tensor->data.data, static_cast<uint32_t>(tensor->bytes), tensor->type == kTfLiteInt8};
  }

  const tflite::Model* model_;
  tflite::MicroInterpreter interpreter_;
};

// A patched model, whole or in two parts that share an arena: what only lasts for a pass takes the
// same bytes in both.
class TflmRuntime {
 public:
  // `rest` and `frozen`: kRestModel and kFrozenModel of the export. `arena`: aligned to 16 bytes,
  // as large as the export says. All of them, and `ops`, must outlive the runtime.
  TflmRuntime(const void* rest, const void* frozen, const tflite::MicroOpResolver& ops,
              uint8_t* arena, size_t arena_bytes)
      : allocator_(tflite::MicroAllocator::Create(arena, arena_bytes)),
        rest_(rest, ops, allocator_) {
    if (frozen != nullptr) frozen_ = new (frozen_memory_) TflmInterpreter(frozen, ops, allocator_);
  }
  ~TflmRuntime() {
    if (frozen_ != nullptr) frozen_->~TflmInterpreter();
  }
  TflmRuntime(const TflmRuntime&) = delete;
  TflmRuntime& operator=(const TflmRuntime&) = delete;

  // Plans the memory. False: TFLM has printed what is missing (an op, or bytes of the arena).
  bool Allocate() { return rest_.Allocate() && (frozen_ == nullptr || frozen_->Allocate()); }

  size_t arena_used() const { return allocator_->used_bytes(); }

  ModelParts parts() { return {&rest_, frozen_}; }

 private:
  tflite::MicroAllocator* allocator_;
  TflmInterpreter rest_;
  TflmInterpreter* frozen_ = nullptr;
  // Not std::optional: Arduino's core for the Nano 33 BLE compiles C++14.
  alignas(TflmInterpreter) uint8_t frozen_memory_[sizeof(TflmInterpreter)];
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_TFLM_RUNTIME_H_
