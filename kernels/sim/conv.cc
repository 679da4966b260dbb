// SPDX-License-Identifier: Apache-2.0
#include "conv.h"

#include <algorithm>

namespace tflm_zo {
namespace sim {

ConvLayer::ConvLayer(const KernelTable* kernels, const Window& window, int32_t output_channels,
                     int32_t groups, const int8_t* weights, const int32_t* bias,
                     const TflmZoSimQuantization& quantization)
    : kernels_(kernels),
      window_(window),
      output_channels_(output_channels),
      groups_(groups),
      channels_per_group_(output_channels / groups),
      input_zero_point_(quantization.input_zero_point),
      samples_per_group_(SamplesPerGroup(window)),
      pixel_offsets_(PixelOffsets(window, samples_per_group_)),
      segment_offsets_(TapOffsets(window)),
      run_(window.channels / groups),
      parameters_(weights,
                  static_cast<int64_t>(output_channels) * window.kernel_height *
                      window.kernel_width * (window.channels / groups),
                  bias, output_channels),
      requantization_(quantization, groups, output_channels / groups) {
  if (groups == 1 && window.dilation_width == 1) {
    // The taps of a kernel row are neighbours in memory: one segment for all of them.
    std::vector<int32_t> rows;
    for (int32_t y = 0; y < window.kernel_height; ++y) {
      rows.push_back(segment_offsets_[static_cast<size_t>(y) * window.kernel_width]);
    }
    segment_offsets_ = rows;
    run_ = window.kernel_width * window.channels;
  }
  const int32_t segments = static_cast<int32_t>(segment_offsets_.size());
  packed_weights_.resize(
      static_cast<size_t>(groups * PackedGemmBytes(channels_per_group_, segments, run_)));
  corrected_bias_.resize(static_cast<size_t>(groups) * RoundUp(channels_per_group_, kChannelBlock));
}

void ConvLayer::Refresh() {
  if (!parameters_.Changed()) return;
  const int32_t segments = static_cast<int32_t>(segment_offsets_.size());
  for (int32_t g = 0; g < groups_; ++g) {
    const int32_t first = g * channels_per_group_;
    const int8_t* weights = parameters_.weights() + static_cast<int64_t>(first) * Depth();
    const int32_t* bias = parameters_.bias() != nullptr ? parameters_.bias() + first : nullptr;
    PackGemmWeights(
        weights, channels_per_group_, segments, run_,
        packed_weights_.data() + g * PackedGemmBytes(channels_per_group_, segments, run_));
    CorrectGemmBias(weights, bias, channels_per_group_, Depth(), input_zero_point_,
                    corrected_bias_.data() + g * RoundUp(channels_per_group_, kChannelBlock));
  }
}

void ConvLayer::Run(const LayerIo& io) {
  const int64_t padded_bytes = PaddedBytes(window_);
  const int64_t input_bytes = InputBytes(window_);
  const int32_t segments = static_cast<int32_t>(segment_offsets_.size());
  const uint8_t fill = static_cast<uint8_t>(input_zero_point_ + 128);

  GemmProblem problem;
  problem.pixel_offsets = pixel_offsets_.data();
  problem.segments = segments;
  problem.quads = RoundUp(run_, 4) / 4;
  problem.channels = channels_per_group_;
  problem.output_stride = output_channels_;

  for (int32_t first = 0; first < io.samples; first += samples_per_group_) {
    const int32_t count = std::min(samples_per_group_, io.samples - first);
    for (int32_t i = 0; i < count; ++i) {
      CopyPadded(window_, io.inputs[0] + (first + i) * input_bytes, fill,
                 io.scratch + i * padded_bytes);
    }
    problem.pixels = count * OutputPixels(window_);
    const int64_t output_start =
        static_cast<int64_t>(first) * OutputPixels(window_) * output_channels_;
    for (int32_t g = 0; g < groups_; ++g) {
      const int64_t channel = static_cast<int64_t>(g) * channels_per_group_;
      problem.input = io.scratch + g * (window_.channels / groups_);
      problem.segment_offsets = segment_offsets_.data();
      problem.weights =
          packed_weights_.data() + g * PackedGemmBytes(channels_per_group_, segments, run_);
      problem.bias = corrected_bias_.data() + g * RoundUp(channels_per_group_, kChannelBlock);
      problem.requantization = requantization_.View(g);
      problem.output = io.output + output_start + channel;
      problem.accumulators =
          io.accumulators != nullptr ? io.accumulators + output_start + channel : nullptr;
      kernels_->gemm(problem);
    }
  }
}

int64_t ConvLayer::ScratchBytes() const {
  return samples_per_group_ * PaddedBytes(window_) + kReadSlack;
}

}  // namespace sim
}  // namespace tflm_zo
