// SPDX-License-Identifier: Apache-2.0
#ifndef TFLM_ZO_SIM_LAYER_H_
#define TFLM_ZO_SIM_LAYER_H_

#include <cstdint>
#include <vector>

namespace tflm_zo {
namespace sim {

// What one layer computes on: `samples` samples, one after the other, of every tensor.
struct LayerIo {
  const int8_t* const* inputs;  // as many as the layer has
  int8_t* output;
  int32_t* accumulators;  // null if they are not wanted
  int32_t samples;
  uint8_t* scratch;  // ScratchBytes() bytes, without a meaning between calls
};

class Layer {
 public:
  virtual ~Layer() = default;

  // Takes over weights that the caller changed. Called once before the Run calls of a batch.
  virtual void Refresh() {}

  virtual void Run(const LayerIo& io) = 0;

  virtual int64_t ScratchBytes() const { return 0; }

  // Whether Run honours LayerIo::accumulators.
  virtual bool HasAccumulators() const { return false; }
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_LAYER_H_
