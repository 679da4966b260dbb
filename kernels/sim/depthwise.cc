// SPDX-License-Identifier: Apache-2.0
#include "depthwise.h"

#include <algorithm>

namespace tflm_zo {
namespace sim {
namespace {

Window WithRepeatedChannels(Window window, int32_t multiplier) {
  window.channels *= multiplier;
  return window;
}

}  // namespace

DepthwiseLayer::DepthwiseLayer(const KernelTable* kernels, const Window& window, int32_t multiplier,
                               const int8_t* weights, const int32_t* bias,
                               const TflmZoSimQuantization& quantization)
    : kernels_(kernels),
      window_(WithRepeatedChannels(window, multiplier)),
      multiplier_(multiplier),
      input_zero_point_(quantization.input_zero_point),
      samples_per_group_(SamplesPerGroup(window_)),
      pixel_offsets_(PixelOffsets(window_, samples_per_group_)),
      tap_offsets_(TapOffsets(window_)),
      parameters_(weights, static_cast<int64_t>(Taps()) * window_.channels, bias, window_.channels),
      requantization_(quantization, 1, window_.channels),
      packed_weights_(static_cast<size_t>(PackedDepthwiseElements(Taps(), window_.channels))),
      corrected_bias_(static_cast<size_t>(RoundUp(window_.channels, kChannelBlock))),
      repeated_(multiplier > 1 ? static_cast<size_t>(InputBytes(window_)) : 0) {}

void DepthwiseLayer::Refresh() {
  if (!parameters_.Changed()) return;
  PackDepthwiseWeights(parameters_.weights(), Taps(), window_.channels, packed_weights_.data());
  CorrectDepthwiseBias(parameters_.weights(), parameters_.bias(), Taps(), window_.channels,
                       input_zero_point_, corrected_bias_.data());
}

void DepthwiseLayer::Run(const LayerIo& io) {
  const int64_t padded_bytes = PaddedBytes(window_);
  const int64_t input_bytes = InputBytes(window_) / multiplier_;
  const uint8_t fill = static_cast<uint8_t>(input_zero_point_ + 128);

  DepthwiseProblem problem;
  problem.input = io.scratch;
  problem.pixel_offsets = pixel_offsets_.data();
  problem.tap_offsets = tap_offsets_.data();
  problem.taps = Taps();
  problem.weights = packed_weights_.data();
  problem.bias = corrected_bias_.data();
  problem.requantization = requantization_.View(0);
  problem.channels = window_.channels;

  for (int32_t first = 0; first < io.samples; first += samples_per_group_) {
    const int32_t count = std::min(samples_per_group_, io.samples - first);
    for (int32_t i = 0; i < count; ++i) {
      const int8_t* input = io.inputs[0] + (first + i) * input_bytes;
      if (multiplier_ > 1) {
        for (int64_t k = 0; k < input_bytes; ++k) {
          std::fill_n(repeated_.begin() + k * multiplier_, multiplier_, input[k]);
        }
        input = repeated_.data();
      }
      CopyPadded(window_, input, fill, io.scratch + i * padded_bytes);
    }
    const int64_t output_start =
        static_cast<int64_t>(first) * OutputPixels(window_) * window_.channels;
    problem.pixels = count * OutputPixels(window_);
    problem.output = io.output + output_start;
    problem.accumulators = io.accumulators != nullptr ? io.accumulators + output_start : nullptr;
    kernels_->depthwise(problem);
  }
}

int64_t DepthwiseLayer::ScratchBytes() const {
  return samples_per_group_ * PaddedBytes(window_) + kReadSlack;
}

}  // namespace sim
}  // namespace tflm_zo
