// SPDX-License-Identifier: Apache-2.0
//
// A patched model in TFLM's C++ interpreter. The ops touch TFLM in tflm_adapter.h only, the app in
// this file only.
#ifndef TFLM_ZO_MICRO_APP_TFLM_RUNTIME_H_
#define TFLM_ZO_MICRO_APP_TFLM_RUNTIME_H_

#include <cstddef>
#include <cstdint>

#include "model_runtime.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace tflm_zo {

class TflmRuntime final : public ModelRuntime {
 public:
  // `model`: a .tflite, aligned to 16 bytes. `arena`: likewise aligned, as large as the export
  // says. All of them, and `ops`, must outlive the runtime.
  TflmRuntime(const void* model, const tflite::MicroOpResolver& ops, uint8_t* arena,
              size_t arena_bytes)
      : model_(tflite::GetModel(model)), interpreter_(model_, ops, arena, arena_bytes) {}

  // Plans the memory. False: TFLM has printed what is missing (an op, or bytes of the arena).
  bool Allocate() {
    return model_->version() == TFLITE_SCHEMA_VERSION &&
           interpreter_.AllocateTensors() == kTfLiteOk;
  }

  size_t arena_used() const { return interpreter_.arena_used_bytes(); }

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

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_TFLM_RUNTIME_H_
