// SPDX-License-Identifier: Apache-2.0
//
// The frozen layers in front of a patched model, where they are an engine of their own, and what
// they hand over to the engine of the rest.
#ifndef TFLM_ZO_MICRO_APP_FROZEN_LAYERS_H_
#define TFLM_ZO_MICRO_APP_FROZEN_LAYERS_H_

#include <cstdint>

#include "model_runtime.h"

namespace tflm_zo {

class FrozenLayers {
 public:
  // Without frozen layers (parts.frozen is nullptr) only exist() may be called.
  explicit FrozenLayers(const ModelParts& parts) : frozen_(parts.frozen), rest_(parts.rest) {}

  bool exist() const { return frozen_ != nullptr; }

  // Whether the two engines belong together. Call once, before all that follows.
  bool Start();

  // Tensor of the sample.
  TensorMemory input() const { return frozen_->Input(kSampleInput); }
  // Bytes of all outputs.
  uint32_t output_bytes() const { return output_bytes_; }

  // Computes the outputs for a sample. The engines may share their memory: inputs of the rest are
  // lost.
  bool Run(const void* sample);
  // Moves the outputs to the inputs of the rest, once after each Run.
  void HandOver();

  // The same with a copy of the outputs in between, [output_bytes()].
  void SaveOutputs(void* copy) const;
  void HandOver(const void* copy) const;

  // Passes so far.
  uint32_t runs() const { return runs_; }

 private:
  ModelRuntime* frozen_;
  ModelRuntime* rest_;
  uint32_t output_bytes_ = 0;
  uint32_t runs_ = 0;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_FROZEN_LAYERS_H_
