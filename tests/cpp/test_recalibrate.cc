// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "check.h"
#include "op_options.h"
#include "parameter_op.h"
#include "parameter_perturbation.h"
#include "parameter_state.h"
#include "recalibrate.h"
#include "session.h"
#include "vectors.h"

using namespace tflm_zo;

namespace {

constexpr int32_t kChannels = 6;
constexpr int32_t kPositions = 5;
constexpr int32_t kSampleBytes = kChannels * kPositions;
constexpr int32_t kHeadroom = 4;
constexpr int32_t kZeroPoint = -7;

// A parameter op that owns an input adapter and nothing else, with eval tensors and a context of
// its own.
class Adapter {
 public:
  explicit Adapter(int32_t reference_channels = kChannels) {
    options_.head.magic = kParameterOptionsMagic;
    options_.head.version = kOptionsVersion;
    options_.head.parameter_count = 2;
    options_.head.factor_count = 2;
    options_.head.reference_channels = reference_channels;
    options_.head.reference_zero_point = kZeroPoint;
    options_.head.gain_parameter = 0;
    options_.head.offset_parameter = 1;
    // kind, layer, variable, initial, channels, stride, headroom, exact, moments, factor offset and
    // count
    options_.entries[0] = {kWeights, 0, 2, 3, kChannels, 1, kHeadroom, 0, 4, 0, 1};
    options_.entries[1] = {kBias, 0, 5, 6, kChannels, 1, 1 << 20, 0, 7, 1, 1};
    std::memset(initial_gains_, 32, sizeof(initial_gains_));
    Set(0, command_, abi::kInt32, kCommandWords);
    Set(1, session_, abi::kInt32, kSessionWords + 6);
    Set(2, gains, abi::kInt8, kChannels);
    Set(3, initial_gains_, abi::kInt8, kChannels);
    Set(4, moments[0], abi::kFloat32, 2 * kChannels);
    Set(5, offsets, abi::kInt32, kChannels);
    Set(6, initial_offsets_, abi::kInt32, kChannels);
    Set(7, moments[1], abi::kFloat32, 2 * kChannels);
    node_.inputs = reinterpret_cast<abi::IntArray*>(&inputs_);
    node_.outputs = reinterpret_cast<abi::IntArray*>(&outputs_);
    context_.impl = this;
    context_.ReportError = &Ignore;
    context_.AllocatePersistentBuffer = [](Context* c, size_t) -> void* { return Self(c)->state_; };
    context_.GetEvalTensor = [](const Context* c, int i) { return &Self(c)->tensors_[i]; };
  }

  // False: the op refuses its options.
  bool Start() {
    node_.user_data =
        ParameterOp().init(&context_, reinterpret_cast<const char*>(&options_), sizeof(options_));
    if (ParameterOp().prepare(&context_, &node_) != kOk) return false;
    return ParameterOp().invoke(&context_, &node_) == kOk;
  }

  void SetReference(int32_t channel, float mean, float spread) {
    options_.reference[channel] = mean;
    options_.reference[kChannels + channel] = spread;
  }

  ParameterOptions& options() { return options_.head; }
  const ParameterState& state() const {
    return *static_cast<const ParameterState*>(node_.user_data);
  }

  // A pass with perturbed gains and offsets.
  bool Perturb() {
    Command command{};
    command.magic = kCommandMagic;
    command.sign = 1;
    command.last = 2;
    std::memcpy(command_, &command, sizeof(command));
    return ParameterOp().invoke(&context_, &node_) == kOk;
  }

  int8_t gains[kChannels];
  int32_t offsets[kChannels];
  float moments[2][2 * kChannels];

 private:
  static void Ignore(Context*, const char*, ...) {}
  static Adapter* Self(const Context* context) { return static_cast<Adapter*>(context->impl); }

  void Set(int index, void* data, abi::Type type, int count) {
    shapes_[index] = {1, {count}};
    tensors_[index] = {data, &shapes_[index], type};
  }

  struct {
    ParameterOptions head;
    ParameterEntry entries[2];
    float factors[2];
    float reference[2 * kChannels];
  } options_{};
  struct {
    int size = 8;
    int data[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  } inputs_;
  struct {
    int size = 0;
    int data[1];
  } outputs_;
  int32_t command_[kCommandWords] = {};
  alignas(8) int32_t session_[kSessionWords + 6] = {};
  int8_t initial_gains_[kChannels];
  int32_t initial_offsets_[kChannels] = {};
  alignas(16) uint8_t state_[64];
  abi::IntArray shapes_[8];
  EvalTensor tensors_[8];
  Node node_{};
  Context context_{};
};

// Channel c of sample i, all positions: codes of a bell around 3 * c, that grow in spread with c.
void MakeSample(int8_t* sample, uint32_t seed) {
  int8_t noise[4 * kSampleBytes];
  FillCodes(noise, 4 * kSampleBytes, seed);
  for (int32_t i = 0; i < kSampleBytes; ++i) {
    const int32_t c = i % kChannels;
    int32_t sum = 0;
    for (int32_t k = 0; k < 4; ++k) sum += noise[4 * i + k];
    sample[i] = static_cast<int8_t>(sum * (c + 1) / 60 + 3 * c);
  }
}

double Mean(const ChannelSums& sums, int32_t c) {
  return static_cast<double>(sums[c].sum) / static_cast<double>(sums.codes_per_channel());
}

double Spread(const ChannelSums& sums, int32_t c) {
  const double square =
      static_cast<double>(sums[c].squares) / static_cast<double>(sums.codes_per_channel());
  return std::sqrt(square - Mean(sums, c) * Mean(sums, c));
}

}  // namespace

TEST(SumsAreExact) {
  ChannelSum memory[kChannels];
  ChannelSums sums(memory, kChannels, kSampleBytes);
  int64_t expected[kChannels] = {};
  int64_t squares[kChannels] = {};
  for (uint32_t i = 0; i < 300; ++i) {
    int8_t sample[kSampleBytes];
    FillCodes(sample, kSampleBytes, i);
    sample[0] = -128;
    for (int32_t k = 0; k < kSampleBytes; ++k) {
      expected[k % kChannels] += sample[k];
      squares[k % kChannels] += static_cast<int64_t>(sample[k]) * sample[k];
    }
    sums.Add(sample);
  }
  CHECK_EQ(sums.samples(), 300u);
  CHECK_EQ(sums.codes_per_channel(), 1500);
  for (int32_t c = 0; c < kChannels; ++c) {
    CHECK_EQ(sums[c].sum, expected[c]);
    CHECK_EQ(sums[c].squares, squares[c]);
  }
  sums.Reset();
  CHECK_EQ(sums.samples(), 0u);
  CHECK_EQ(sums[3].sum + sums[3].squares, 0);
}

TEST(MeanAndSpreadComeBack) {
  Adapter adapter;
  ChannelSum memory[kChannels];
  ChannelSums sums(memory, kChannels, kSampleBytes);
  for (uint32_t i = 0; i < 100; ++i) {
    int8_t sample[kSampleBytes];
    MakeSample(sample, i);
    sums.Add(sample);
  }
  for (int32_t c = 0; c < kChannels; ++c) {
    adapter.SetReference(c, 10.25f * static_cast<float>(c) - 20.0f, 11.0f);
  }
  CHECK(adapter.Start());
  CHECK(Recalibrate(adapter.state(), sums) == RecalibrationStatus::kOk);
  for (int32_t c = 0; c < kChannels; ++c) {
    const double gain = adapter.gains[c] / 32.0;
    const double mean =
        gain * (Mean(sums, c) - kZeroPoint) + adapter.offsets[c] / 32.0 + kZeroPoint;
    CHECK(std::fabs(mean - (10.25 * c - 20.0)) < 1.0 / 63.0);
    const double wanted = 11.0 / Spread(sums, c);
    CHECK(adapter.gains[c] == 123 || std::fabs(gain - wanted) < 1.0 / 63.0);
    CHECK(adapter.gains[c] != 123 || wanted > 3.8);
  }
}

// Codes like a bell, uniform ones, and ones of two neighbouring values, far from 0; the last time
// so many that sums take more than 32 bits.
TEST(SameBitsEverywhere) {
  uint32_t digest = 0;
  for (uint32_t round = 0; round < 200; ++round) {
    Adapter adapter;
    ChannelSum memory[kChannels];
    ChannelSums sums(memory, kChannels, kSampleBytes);
    const uint32_t samples = round == 199 ? 150000 : 2 + RandomWord(round, 0) % 30u;
    for (uint32_t i = 0; i < samples; ++i) {
      int8_t sample[kSampleBytes];
      if (round % 3 == 0) {
        MakeSample(sample, 1000 * round + i);
      } else {
        FillCodes(sample, kSampleBytes, 1000 * round + i % 50);
      }
      for (int8_t& code : sample) {
        if (round % 3 == 2) code = static_cast<int8_t>(code < 100 ? -120 : -119);
      }
      sums.Add(sample);
    }
    for (int32_t c = 0; c < kChannels; ++c) {
      adapter.SetReference(c, Real(round, 10 + c, 128.0f), std::fabs(Real(round, 20 + c, 80.0f)));
    }
    if (!CHECK(adapter.Start())) return;
    CHECK(Recalibrate(adapter.state(), sums) == RecalibrationStatus::kOk);
    const uint32_t both[3] = {digest, Digest(adapter.gains, kChannels),
                              Digest(adapter.offsets, kChannels)};
    digest = Digest(both, 3);
  }
  CHECK_EQ(digest, 2122159316u);
}

TEST(ChannelsWithoutSpreadKeepTheirGain) {
  Adapter adapter;
  ChannelSum memory[kChannels];
  ChannelSums sums(memory, kChannels, kSampleBytes);
  int8_t sample[kSampleBytes];
  for (int32_t i = 0; i < kSampleBytes; ++i) sample[i] = i % kChannels == 1 ? 50 : -101;
  sums.Add(sample);
  for (int32_t i = 1; i < kSampleBytes; i += kChannels) sample[i] = -50;
  sums.Add(sample);
  for (int32_t c = 0; c < kChannels; ++c) adapter.SetReference(c, -90.5f, 25.0f);
  adapter.SetReference(2, 120.0f, 0.0f);
  adapter.SetReference(1, 0.0f, 0.0f);
  CHECK(adapter.Start());
  CHECK(Recalibrate(adapter.state(), sums) == RecalibrationStatus::kOk);
  CHECK_EQ(adapter.gains[0], 32);
  CHECK_EQ(adapter.offsets[0], 336);  // 32 * (-90.5 + 101)
  CHECK_EQ(adapter.gains[1], 32);
  CHECK_EQ(adapter.offsets[1], 0);
  CHECK_EQ(adapter.gains[2], 32);
  CHECK_EQ(adapter.offsets[2], 32 * 221);
}

TEST(GainsStayInRange) {
  Adapter adapter;
  ChannelSum memory[kChannels];
  ChannelSums sums(memory, kChannels, kSampleBytes);
  int8_t sample[kSampleBytes];
  for (int8_t sign : {1, -1}) {
    for (int32_t i = 0; i < kSampleBytes; ++i) {
      sample[i] = static_cast<int8_t>(i % kChannels == 0 ? sign : 127 * sign);
    }
    sums.Add(sample);
  }
  for (int32_t c = 0; c < kChannels; ++c) adapter.SetReference(c, -128.0f, 127.0f);
  adapter.SetReference(1, 127.0f, 0.001f);
  adapter.SetReference(2, NAN, NAN);
  adapter.SetReference(3, INFINITY, INFINITY);
  CHECK(adapter.Start());
  CHECK(Recalibrate(adapter.state(), sums) == RecalibrationStatus::kOk);
  CHECK_EQ(adapter.gains[0], 127 - kHeadroom);
  CHECK_EQ(adapter.offsets[0], 32 * (-128 + 7) - 123 * 7);
  CHECK_EQ(adapter.gains[1], 1);
  CHECK_EQ(adapter.gains[4], 32);
  // Whatever a damaged model says, the result can be perturbed and taken back.
  int8_t gains[kChannels];
  int32_t offsets[kChannels];
  std::memcpy(gains, adapter.gains, sizeof(gains));
  std::memcpy(offsets, adapter.offsets, sizeof(offsets));
  CHECK(WriteParameter(adapter.state(), 0, gains, kChannels));
  CHECK(WriteParameter(adapter.state(), 1, offsets, kChannels));
}

TEST(PerturbationAndMomentumAreGone) {
  Adapter adapter;
  ChannelSum memory[kChannels];
  ChannelSums sums(memory, kChannels, kSampleBytes);
  int8_t sample[kSampleBytes];
  for (uint32_t i = 0; i < 9; ++i) {
    MakeSample(sample, i);
    sums.Add(sample);
  }
  for (int32_t c = 0; c < kChannels; ++c) adapter.SetReference(c, 5.0f, 9.0f);
  CHECK(adapter.Start());
  CHECK(Recalibrate(adapter.state(), sums) == RecalibrationStatus::kOk);
  int8_t gains[kChannels];
  int32_t offsets[kChannels];
  std::memcpy(gains, adapter.gains, sizeof(gains));
  std::memcpy(offsets, adapter.offsets, sizeof(offsets));

  CHECK(Configure(adapter.state(), 0, 2, 0.1f));
  CHECK(Configure(adapter.state(), 1, 500, 0.1f));
  CHECK(adapter.Perturb());
  CHECK(adapter.gains[0] != gains[0]);
  for (auto& state : adapter.moments) {
    for (float& value : state) value = 1.5f;
  }
  CHECK(Recalibrate(adapter.state(), sums) == RecalibrationStatus::kOk);
  CHECK_BYTES_EQ(adapter.gains, gains, sizeof(gains));
  CHECK_BYTES_EQ(adapter.offsets, offsets, sizeof(offsets));
  for (const auto& state : adapter.moments) {
    for (const float value : state) CHECK_EQ(value, 0.0f);
  }
  RestoreClean(adapter.state());
  CHECK_BYTES_EQ(adapter.gains, gains, sizeof(gains));
}

TEST(RefusalsChangeNothing) {
  ChannelSum memory[kChannels];
  ChannelSums sums(memory, kChannels, kSampleBytes);
  int8_t sample[kSampleBytes];
  MakeSample(sample, 1);
  sums.Add(sample);
  Adapter adapter;
  for (int32_t c = 0; c < kChannels; ++c) adapter.SetReference(c, 5.0f, 9.0f);
  CHECK(adapter.Start());
  CHECK(Recalibrate(adapter.state(), sums) == RecalibrationStatus::kTooFewSamples);
  CHECK(Recalibrate(adapter.state(), ChannelSums()) == RecalibrationStatus::kOtherChannels);
  sums.Add(sample);
  ChannelSums others(memory, kChannels - 1, kSampleBytes);
  CHECK(Recalibrate(adapter.state(), others) == RecalibrationStatus::kOtherChannels);
  for (int32_t c = 0; c < kChannels; ++c) {
    CHECK_EQ(adapter.gains[c], 32);
    CHECK_EQ(adapter.offsets[c], 0);
  }
  Adapter plain(0);
  CHECK(plain.Start());
  CHECK(Recalibrate(plain.state(), sums) == RecalibrationStatus::kNoReference);
  CHECK_EQ(plain.gains[0], 32);
}

TEST(AReferenceMustMatchTheAdapter) {
  Adapter other_count(kChannels - 1);
  CHECK(!other_count.Start());
  Adapter negative(-1);
  CHECK(!negative.Start());
  Adapter longer(kChannels + 1);
  CHECK(!longer.Start());
  Adapter swapped;
  swapped.options().gain_parameter = 1;
  CHECK(!swapped.Start());
  Adapter missing;
  missing.options().offset_parameter = 2;
  CHECK(!missing.Start());
}

CHECK_MAIN()
