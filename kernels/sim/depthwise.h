// SPDX-License-Identifier: Apache-2.0
//
// DEPTHWISE_CONV_2D. With a depth multiplier above 1 the padded image repeats each channel so many
// times, which leaves the case of one input channel per output channel.
#ifndef TFLM_ZO_SIM_DEPTHWISE_H_
#define TFLM_ZO_SIM_DEPTHWISE_H_

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "layer.h"
#include "packing.h"
#include "window.h"

namespace tflm_zo {
namespace sim {

class DepthwiseLayer : public Layer {
 public:
  // `weights` [kernel_height][kernel_width][window.channels * multiplier] and `bias` (or null) stay
  // the caller's.
  DepthwiseLayer(const KernelTable* kernels, const Window& window, int32_t multiplier,
                 const int8_t* weights, const int32_t* bias,
                 const TflmZoSimQuantization& quantization);

  void Refresh() override;
  void Run(const LayerIo& io) override;
  int64_t ScratchBytes() const override;
  bool HasAccumulators() const override { return true; }

 private:
  int32_t Taps() const { return window_.kernel_height * window_.kernel_width; }

  const KernelTable* kernels_;
  Window window_;  // over the image with repeated channels
  int32_t multiplier_;
  int32_t input_zero_point_;
  int32_t samples_per_group_;
  std::vector<int32_t> pixel_offsets_;
  std::vector<int32_t> tap_offsets_;
  WatchedParameters parameters_;
  OwnedRequantization requantization_;
  std::vector<int32_t> packed_weights_;
  std::vector<int32_t> corrected_bias_;
  std::vector<int8_t> repeated_;  // one sample with repeated channels; empty if multiplier is 1
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_DEPTHWISE_H_
