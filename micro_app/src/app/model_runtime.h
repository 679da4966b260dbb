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
// The most tensors that frozen layers, where they run apart (tflm_zo/patching/frozen_prefix.py),
// hand over to the rest of the model, which keeps them from pass to pass; within a residual block
// there are two.
constexpr int kMostKeptTensors = 2;
inline int KeptInput(int tensor) { return tensor == 0 ? kSampleInput : kTargetInput + tensor; }

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

  // Where the parameter op's state is; `reported` is what the model's report says. A board believes
  // it: its model is a part of the firmware. Who runs models of strangers knows better.
  virtual uint64_t StateAddress(uint64_t reported) { return reported; }

 protected:
  ~ModelRuntime() = default;
};

// The engine of a patched model, or two: one of the frozen layers in front, which run once for a
// sample, and one of the rest.
struct ModelParts {
  // Not explicit: an engine of the whole model is all its parts.
  ModelParts(ModelRuntime* rest_or_all, ModelRuntime* frozen_layers = nullptr)
      : rest(rest_or_all), frozen(frozen_layers) {}

  ModelRuntime* rest;
  ModelRuntime* frozen;  // nullptr: none
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_MODEL_RUNTIME_H_
