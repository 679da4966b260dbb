// SPDX-License-Identifier: Apache-2.0
//
// Sparse training: which output channels of a layer are perturbed and updated. No mask is stored:
// it comes from the counter-based generator.
#ifndef TFLM_ZO_KERNELS_MASK_H_
#define TFLM_ZO_KERNELS_MASK_H_

#include <cstdint>

#include "random.h"
#include "real_math.h"

namespace tflm_zo {

// 1, 3 and 4 were masks of elements and of the largest weights; they are refused.
enum MaskKind : uint16_t {
  kNoMask = 0,
  kRandomChannels = 2,  // anew for each step, each with the probability `level`
};

// Part of the settings of a parameter or node.
struct Mask {
  uint16_t kind;
  uint16_t level;  // a bfloat16: the upper half of a float

  float Level() const { return BitsToFloat(static_cast<uint32_t>(level) << 16); }
  bool Valid() const {
    return (kind == kNoMask || kind == kRandomChannels) && !(level & 0x8000u) && Level() < 3e38f;
  }
};

// How a tensor's elements belong to output channels.
struct ChannelLayout {
  int32_t channels;      // output channels
  int32_t stride;        // channel of element i: (i / stride) % channels
  int32_t factor_count;  // `channels`, or 1
  const float* factors;  // 1 / scale^2

  int32_t Of(int32_t i) const { return (i / stride) % channels; }
  float Factor(int32_t channel) const { return factors[factor_count == 1 ? 0 : channel]; }
};

// The mask of one layer in one step. `key`: its random stream.
class ChannelMask {
 public:
  ChannelMask(Mask mask, uint32_t key)
      : all_(mask.kind == kNoMask), level_(mask.Level()), key_(key) {}

  bool KeepsAll() const { return all_; }

  // Whether a random number of the channel, uniform in [0, 1), is below the level.
  bool Keeps(int32_t channel) const {
    if (all_) return true;
    const uint32_t word = RandomWord(key_, static_cast<uint32_t>(channel));
    return static_cast<float>(word >> 8) * (1.0f / 16777216.0f) < level_;
  }

 private:
  bool all_;
  float level_;
  uint32_t key_;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_MASK_H_
