// SPDX-License-Identifier: Apache-2.0
//
// Weights in the order in which the inner loops read them.
#ifndef TFLM_ZO_SIM_PACKING_H_
#define TFLM_ZO_SIM_PACKING_H_

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "sim_api.h"

namespace tflm_zo {
namespace sim {

inline int32_t RoundUp(int32_t x, int32_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

// `weights` [channels][segments][run] become [channel block][segments][quad][kChannelBlock][4],
// with zeros for the channels and bytes that the last block and the last quad of a run lack.
int64_t PackedGemmBytes(int32_t channels, int32_t segments, int32_t run);
void PackGemmWeights(const int8_t* weights, int32_t channels, int32_t segments, int32_t run,
                     int8_t* packed);

// `weights` [taps][channels] become [channel block][taps][kChannelBlock], widened to int32.
int64_t PackedDepthwiseElements(int32_t taps, int32_t channels);
void PackDepthwiseWeights(const int8_t* weights, int32_t taps, int32_t channels, int32_t* packed);

// The inner loops sum w * (x + 128) where w * (x - zero_point) is wanted: for each channel,
//   corrected = bias - (zero_point + 128) * sum of w, in wrapping int32 arithmetic.
// `bias` may be null. Gemm: weights [channels][depth]; depthwise: weights [taps][channels].
void CorrectGemmBias(const int8_t* weights, const int32_t* bias, int32_t channels, int32_t depth,
                     int32_t input_zero_point, int32_t* corrected);
void CorrectDepthwiseBias(const int8_t* weights, const int32_t* bias, int32_t taps,
                          int32_t channels, int32_t input_zero_point, int32_t* corrected);

// The caller's weights and bias, watched for changes by comparing them with the last packed values:
// far cheaper than packing, and no change can be missed.
class WatchedParameters {
 public:
  WatchedParameters(const int8_t* weights, int64_t weight_count, const int32_t* bias,
                    int64_t bias_count);

  // True on the first call and whenever a value differs from what it was at the last call.
  bool Changed();

  const int8_t* weights() const { return weights_; }
  const int32_t* bias() const { return bias_; }

 private:
  const int8_t* weights_;
  const int32_t* bias_;  // null if there is none
  std::vector<int8_t> last_weights_;
  std::vector<int32_t> last_bias_;
  bool seen_ = false;
};

// Owns the arrays behind a Requantization: those of each group of channels are padded to
// kChannelBlock on their own.
class OwnedRequantization {
 public:
  OwnedRequantization(const TflmZoSimQuantization& quantization, int32_t groups,
                      int32_t channels_per_group);

  // What the channels of `group` need; valid as long as this object.
  Requantization View(int32_t group) const;

 private:
  int32_t group_stride_;
  std::vector<int32_t> multiplier_;
  std::vector<int32_t> left_shift_;
  std::vector<int32_t> right_shift_;
  int32_t output_offset_;
  int32_t activation_min_;
  int32_t activation_max_;
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_PACKING_H_
