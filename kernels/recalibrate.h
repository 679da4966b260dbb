// SPDX-License-Identifier: Apache-2.0
//
// Recalibration of the input adapter: undoes a drift of the sensor without labels and without a
// forward pass. What a channel's mean and spread were before the drift is known from the patched
// model; what they are now follows from sums over samples. A gain S / s and an offset M - m * S / s
// bring the channel from mean m and spread s back to mean M and spread S.
#ifndef TFLM_ZO_KERNELS_RECALIBRATE_H_
#define TFLM_ZO_KERNELS_RECALIBRATE_H_

#include <cstdint>

#include "parameter_state.h"

namespace tflm_zo {

// Weight code of the adapter's gain 1, and what one input code is in its offsets.
constexpr int32_t kAdapterUnit = 32;

// Of one channel's codes, exact.
struct ChannelSum {
  int64_t sum;
  int64_t squares;
};

class ChannelSums {
 public:
  // None: for models without a reference.
  ChannelSums() = default;

  // `memory`: one ChannelSum for each of `channels` (at least 1), to outlive this; `sample_bytes`:
  // int8 codes of a sample, the channel being the index that changes fastest.
  ChannelSums(ChannelSum* memory, int32_t channels, uint32_t sample_bytes);

  void Reset();
  // Adds a sample up; no more after 2^32 - 1 of them.
  void Add(const int8_t* sample);

  int32_t channels() const { return channels_; }
  // Since the last Reset.
  uint32_t samples() const { return samples_; }
  // Codes of a channel in them.
  int64_t codes_per_channel() const { return static_cast<int64_t>(samples_) * positions_; }
  const ChannelSum& operator[](int32_t channel) const { return sums_[channel]; }

 private:
  ChannelSum* sums_ = nullptr;
  int32_t channels_ = 0;
  int32_t positions_ = 0;  // codes of a channel in a sample
  uint32_t samples_ = 0;
};

enum class RecalibrationStatus : uint8_t {
  kOk = 0,
  kNoReference = 1,    // the model was patched without an adapter or without reference samples
  kOtherChannels = 2,  // the sums have another number of channels than the adapter
  kTooFewSamples = 3,
};

constexpr uint32_t kLeastRecalibrationSamples = 2;

// Whether Recalibrate would succeed; changes nothing.
RecalibrationStatus CheckRecalibration(const ParameterState& state, const ChannelSums& sums);

// Writes the adapter's gains and offsets for samples like those in `sums` (as they come from the
// sensor, whatever the adapter is now), and forgets its momentum. A gain stays within the range
// that leaves its headroom, and is 1 for a channel without spread, before or now; the offset makes
// up for the gain's rounding, so the mean is right to 1/64 of a code.
RecalibrationStatus Recalibrate(const ParameterState& state, const ChannelSums& sums);

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_RECALIBRATE_H_
