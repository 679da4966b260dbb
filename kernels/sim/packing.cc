// SPDX-License-Identifier: Apache-2.0
#include "packing.h"

#include <algorithm>
#include <cstring>

namespace tflm_zo {
namespace sim {
namespace {

constexpr int32_t kQuad = 4;

int32_t Corrected(int32_t bias, int32_t weight_sum, int32_t input_zero_point) {
  const uint32_t correction =
      static_cast<uint32_t>(input_zero_point + 128) * static_cast<uint32_t>(weight_sum);
  return static_cast<int32_t>(static_cast<uint32_t>(bias) - correction);
}

}  // namespace

int64_t PackedGemmBytes(int32_t channels, int32_t segments, int32_t run) {
  return static_cast<int64_t>(RoundUp(channels, kChannelBlock)) * segments * RoundUp(run, kQuad);
}

void PackGemmWeights(const int8_t* weights, int32_t channels, int32_t segments, int32_t run,
                     int8_t* packed) {
  const int32_t whole_quads = run / kQuad;
  const int32_t rest = run % kQuad;
  const int64_t quad_bytes = kQuad * kChannelBlock;
  const int64_t block_bytes = static_cast<int64_t>(segments) * RoundUp(run, kQuad) * kChannelBlock;
  if (rest != 0 || channels % kChannelBlock != 0) {
    std::memset(packed, 0, static_cast<size_t>(PackedGemmBytes(channels, segments, run)));
  }
  for (int32_t n = 0; n < channels; ++n) {
    int8_t* to = packed + n / kChannelBlock * block_bytes + n % kChannelBlock * kQuad;
    for (int32_t s = 0; s < segments; ++s) {
      for (int32_t q = 0; q < whole_quads; ++q, weights += kQuad, to += quad_bytes) {
        std::memcpy(to, weights, kQuad);
      }
      if (rest != 0) {
        std::memcpy(to, weights, static_cast<size_t>(rest));
        weights += rest;
        to += quad_bytes;
      }
    }
  }
}

int64_t PackedDepthwiseElements(int32_t taps, int32_t channels) {
  return static_cast<int64_t>(RoundUp(channels, kChannelBlock)) * taps;
}

void PackDepthwiseWeights(const int8_t* weights, int32_t taps, int32_t channels, int32_t* packed) {
  for (int32_t first = 0; first < channels; first += kChannelBlock) {
    const int32_t count = std::min(kChannelBlock, channels - first);
    for (int32_t t = 0; t < taps; ++t, packed += kChannelBlock) {
      const int8_t* from = weights + static_cast<int64_t>(t) * channels + first;
      for (int32_t c = 0; c < kChannelBlock; ++c) packed[c] = c < count ? from[c] : 0;
    }
  }
}

void CorrectGemmBias(const int8_t* weights, const int32_t* bias, int32_t channels, int32_t depth,
                     int32_t input_zero_point, int32_t* corrected) {
  for (int32_t n = 0; n < channels; ++n, weights += depth) {
    int32_t sum = 0;
    for (int32_t k = 0; k < depth; ++k) sum += weights[k];
    corrected[n] = Corrected(bias != nullptr ? bias[n] : 0, sum, input_zero_point);
  }
}

void CorrectDepthwiseBias(const int8_t* weights, const int32_t* bias, int32_t taps,
                          int32_t channels, int32_t input_zero_point, int32_t* corrected) {
  std::fill(corrected, corrected + channels, 0);
  for (int32_t t = 0; t < taps; ++t, weights += channels) {
    for (int32_t c = 0; c < channels; ++c) corrected[c] += weights[c];
  }
  for (int32_t c = 0; c < channels; ++c) {
    corrected[c] = Corrected(bias != nullptr ? bias[c] : 0, corrected[c], input_zero_point);
  }
}

WatchedParameters::WatchedParameters(const int8_t* weights, int64_t weight_count,
                                     const int32_t* bias, int64_t bias_count)
    : weights_(weights),
      bias_(bias),
      last_weights_(static_cast<size_t>(weight_count)),
      last_bias_(bias != nullptr ? static_cast<size_t>(bias_count) : 0) {}

bool WatchedParameters::Changed() {
  const size_t bias_bytes = last_bias_.size() * sizeof(int32_t);
  if (seen_ && std::memcmp(last_weights_.data(), weights_, last_weights_.size()) == 0 &&
      (bias_bytes == 0 || std::memcmp(last_bias_.data(), bias_, bias_bytes) == 0)) {
    return false;
  }
  seen_ = true;
  std::memcpy(last_weights_.data(), weights_, last_weights_.size());
  if (bias_bytes != 0) std::memcpy(last_bias_.data(), bias_, bias_bytes);
  return true;
}

OwnedRequantization::OwnedRequantization(const TflmZoSimQuantization& quantization, int32_t groups,
                                         int32_t channels_per_group)
    : group_stride_(RoundUp(channels_per_group, kChannelBlock)),
      output_offset_(quantization.output_zero_point),
      activation_min_(quantization.activation_min),
      activation_max_(quantization.activation_max) {
  const auto padded = [&](const int32_t* values) {
    std::vector<int32_t> result(static_cast<size_t>(groups) * group_stride_);
    for (int32_t g = 0; g < groups; ++g) {
      std::copy_n(values + g * channels_per_group, channels_per_group,
                  result.begin() + g * group_stride_);
    }
    return result;
  };
  multiplier_ = padded(quantization.multiplier);
  left_shift_ = padded(quantization.left_shift);
  right_shift_ = padded(quantization.right_shift);
}

Requantization OwnedRequantization::View(int32_t group) const {
  const int32_t first = group * group_stride_;
  return {multiplier_.data() + first,
          left_shift_.data() + first,
          right_shift_.data() + first,
          output_offset_,
          activation_min_,
          activation_max_};
}

}  // namespace sim
}  // namespace tflm_zo
