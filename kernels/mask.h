// SPDX-License-Identifier: Apache-2.0
//
// Sparse training: which elements of a parameter are perturbed and updated. No mask is stored:
// random ones come from the counter-based generator, those of the largest weights from the initial
// values, which are readable in flash at any time.
#ifndef TFLM_ZO_KERNELS_MASK_H_
#define TFLM_ZO_KERNELS_MASK_H_

#include <cstdint>

#include "random.h"
#include "real_math.h"

namespace tflm_zo {

enum MaskKind : uint16_t {
  kNoMask = 0,
  kRandomElements = 1,  // anew for each step, each with the probability `level`
  kRandomChannels = 2,  // output channels, of weights and bias together
  kTopElements = 3,     // the initial real value squared is at least `level`
  kTopChannels = 4,     // so is the sum of these squares over the channel
};

// Part of the settings of a parameter or node.
struct Mask {
  uint16_t kind;
  uint16_t level;  // a bfloat16: the upper half of a float

  float Level() const { return BitsToFloat(static_cast<uint32_t>(level) << 16); }
  bool Valid() const { return kind <= kTopChannels && !(level & 0x8000u) && Level() < 3e38f; }
};

// Whether the random number `index` of stream `key`, uniform in [0, 1), is below `level`.
inline bool Chosen(uint32_t key, int32_t index, float level) {
  const uint32_t word = RandomWord(key, static_cast<uint32_t>(index));
  return static_cast<float>(word >> 8) * (1.0f / 16777216.0f) < level;
}

// How a tensor's elements belong to output channels.
struct ChannelLayout {
  int32_t channels;      // output channels
  int32_t stride;        // channel of element i: (i / stride) % channels
  int32_t factor_count;  // `channels`, or 1
  const float* factors;  // 1 / scale^2

  int32_t Of(int32_t i) const { return (i / stride) % channels; }
  float Factor(int32_t channel) const { return factors[factor_count == 1 ? 0 : channel]; }
};

// The mask of one parameter tensor in one step. `key`: its random stream.
template <typename T>
class ElementMask {
 public:
  ElementMask(Mask mask, uint32_t key, const T* initial, int32_t count, const ChannelLayout& layout)
      : mask_(mask),
        level_(mask.Level()),
        key_(key),
        initial_(initial),
        count_(count),
        layout_(layout) {}

  // Bit j of the result: whether element first + j is kept, j < count <= 32.
  uint32_t Bits(int32_t first, int32_t count) {
    return mask_.kind == kNoMask ? ~0u : KeptBits(first, count);
  }

 private:
  uint32_t KeptBits(int32_t first, int32_t count);
  bool Keeps(int32_t i);
  bool KeepsChannel() const;
  float Square(int32_t i) const;

  Mask mask_;
  float level_;
  uint32_t key_;
  const T* initial_;
  int32_t count_;
  const ChannelLayout& layout_;
  int32_t channel_ = -1;  // of the last element
  bool keeps_channel_ = false;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_MASK_H_
