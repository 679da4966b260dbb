// SPDX-License-Identifier: Apache-2.0
#include "recalibrate.h"

#include <cmath>
#include <cstring>

#include "momentum.h"
#include "parameter_perturbation.h"
#include "real_math.h"
#include "weight_step.h"

namespace tflm_zo {
namespace {

constexpr float kUnit = kAdapterUnit;

struct MeanAndSpread {
  float mean;
  float spread;
};

// The integer nearest to the mean is taken out before anything is rounded. What is then subtracted
// in the variance is at most half of what it is subtracted from, so a small spread far from 0 is as
// good as any.
MeanAndSpread Statistics(const ChannelSum& of, int64_t count) {
  // Division truncates; the mean may be negative.
  const int64_t twice = 2 * of.sum + count;
  const int64_t down = twice < 0 && twice % (2 * count) != 0 ? 1 : 0;
  const int64_t center = twice / (2 * count) - down;
  const int64_t rest = of.sum - center * count;
  const int64_t squares = of.squares - 2 * center * of.sum + center * center * count;
  const auto codes = static_cast<float>(count);
  const float shift = static_cast<float>(rest) / codes;
  const float variance = static_cast<float>(squares) / codes - shift * shift;
  return {static_cast<float>(center) + shift, std::sqrt(variance)};
}

// x to the nearest integer, within low .. high (below 2^24 in size); not a number gives low.
int32_t RoundWithin(float x, float low, float high) {
  if (!(x > low)) x = low;
  if (x > high) x = high;
  return FloorToInt(x + 0.5f);
}

void ForgetMomentum(const ParameterView& view) {
  if (view.moments == nullptr) return;
  std::memset(view.moments, 0, static_cast<size_t>(Momentum::Words(view.count)) * sizeof(float));
}

}  // namespace

ChannelSums::ChannelSums(ChannelSum* memory, int32_t channels, uint32_t sample_bytes)
    : sums_(memory),
      channels_(channels),
      positions_(static_cast<int32_t>(sample_bytes / static_cast<uint32_t>(channels))) {
  Reset();
}

void ChannelSums::Reset() {
  for (int32_t c = 0; c < channels_; ++c) sums_[c] = ChannelSum{};
  samples_ = 0;
}

void ChannelSums::Add(const int8_t* sample) {
  if (samples_ == UINT32_MAX) return;
  for (int32_t p = 0; p < positions_; ++p) {
    for (int32_t c = 0; c < channels_; ++c) {
      const int32_t code = *sample++;
      sums_[c].sum += code;
      sums_[c].squares += code * code;
    }
  }
  samples_ += 1;
}

RecalibrationStatus CheckRecalibration(const ParameterState& state, const ChannelSums& sums) {
  const int32_t channels = state.options->reference_channels;
  if (channels == 0) return RecalibrationStatus::kNoReference;
  if (sums.channels() != channels) return RecalibrationStatus::kOtherChannels;
  if (sums.samples() < kLeastRecalibrationSamples) return RecalibrationStatus::kTooFewSamples;
  return RecalibrationStatus::kOk;
}

RecalibrationStatus Recalibrate(const ParameterState& state, const ChannelSums& sums) {
  const RecalibrationStatus status = CheckRecalibration(state, sums);
  if (status != RecalibrationStatus::kOk) return status;
  const ParameterOptions& options = *state.options;
  ParameterView gains;
  ParameterView offsets;
  GetParameter(state, options.gain_parameter, &gains);
  GetParameter(state, options.offset_parameter, &offsets);
  RestoreClean(state);
  const auto largest_gain = static_cast<float>(kMaxWeight - gains.entry->headroom);
  // More than any gain and mean of codes ask for, and far from the ends of the range.
  constexpr float kLargestOffset = 65536.0f;
  const auto zero_point = static_cast<float>(options.reference_zero_point);
  for (int32_t c = 0; c < sums.channels(); ++c) {
    const float mean = ReferenceMeans(&options)[c];
    const float spread = ReferenceSpreads(&options)[c];
    const MeanAndSpread now = Statistics(sums[c], sums.codes_per_channel());
    float gain = kUnit;
    if (spread > 0.0f && now.spread > 0.0f) gain = kUnit * spread / now.spread;
    const int32_t gain_code = RoundWithin(gain, 1.0f, largest_gain);
    const float kept = static_cast<float>(gain_code) * (now.mean - zero_point);
    const float offset = kUnit * (mean - zero_point) - kept;
    static_cast<int8_t*>(gains.data)[c] = static_cast<int8_t>(gain_code);
    static_cast<int32_t*>(offsets.data)[c] = RoundWithin(offset, -kLargestOffset, kLargestOffset);
  }
  ForgetMomentum(gains);
  ForgetMomentum(offsets);
  return RecalibrationStatus::kOk;
}

}  // namespace tflm_zo
