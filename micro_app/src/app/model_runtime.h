// SPDX-License-Identifier: Apache-2.0
//
// What the app needs from the engine that runs a patched model. TflmRuntime (tflm_runtime.h) does
// it with TFLM's C++ interpreter.
#ifndef TFLM_ZO_MICRO_APP_MODEL_RUNTIME_H_
#define TFLM_ZO_MICRO_APP_MODEL_RUNTIME_H_

#include <cstdint>

namespace tflm_zo {

// Order of the tensors that patching gives a model with one input and one output.
enum ModelInput : int { kSampleInput = 0, kCommandInputTensor = 1, kTargetInput = 2 };
enum ModelOutput : int { kResultOutput = 0, kReportOutput = 1 };

struct TensorMemory {
  void* data;      // nullptr: there is no such tensor
  uint32_t bytes;  // of the whole tensor
  bool is_int8;
};

class ModelRuntime {
 public:
  virtual TensorMemory Input(int index) = 0;
  virtual TensorMemory Output(int index) = 0;

  // One forward pass. False: an op failed, and has said why.
  virtual bool Invoke() = 0;

 protected:
  ~ModelRuntime() = default;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_MODEL_RUNTIME_H_
