// SPDX-License-Identifier: Apache-2.0
//
// CONV_2D and FULLY_CONNECTED (a 1x1 convolution over an image of rows x 1): a matrix product whose
// rows are read straight from the padded image, one run of contiguous bytes per kernel row.
#ifndef TFLM_ZO_SIM_CONV_H_
#define TFLM_ZO_SIM_CONV_H_

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "layer.h"
#include "packing.h"
#include "window.h"

namespace tflm_zo {
namespace sim {

class ConvLayer : public Layer {
 public:
  // `weights` [output_channels][kernel_height][kernel_width][window.channels / groups] and `bias`
  // (or null) stay the caller's. `groups` divides both numbers of channels.
  ConvLayer(const KernelTable* kernels, const Window& window, int32_t output_channels,
            int32_t groups, const int8_t* weights, const int32_t* bias,
            const TflmZoSimQuantization& quantization);

  void Refresh() override;
  void Run(const LayerIo& io) override;
  int64_t ScratchBytes() const override;
  bool HasAccumulators() const override { return true; }

 private:
  int32_t Depth() const { return static_cast<int32_t>(segment_offsets_.size()) * run_; }

  const KernelTable* kernels_;
  Window window_;
  int32_t output_channels_;
  int32_t groups_;
  int32_t channels_per_group_;  // of the output
  int32_t input_zero_point_;
  int32_t samples_per_group_;  // samples whose padded images are processed together
  std::vector<int32_t> pixel_offsets_;
  std::vector<int32_t> segment_offsets_;
  int32_t run_;  // bytes of a segment
  WatchedParameters parameters_;
  OwnedRequantization requantization_;
  std::vector<int8_t> packed_weights_;
  std::vector<int32_t> corrected_bias_;
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_CONV_H_
