// SPDX-License-Identifier: Apache-2.0
//
// Frozen layers as an engine of their own: the weights of a model that runs as one, and as few runs
// as there can be.
#include "app/move_together.h"
#include "app/on_device_trainer.h"
#include "app/sample_batch.h"
#include "check.h"
#include "small_model.h"
#include "xorshift.h"

namespace {

using tflm_zo::TrainerStatus;

constexpr int32_t kBatch = 3;
constexpr uint32_t kSteps = 4;
constexpr int32_t kQueries = 2;
// Each query takes the batch to both sides of the weights.
constexpr uint32_t kPassesAStep = 2 * kQueries * kBatch;

struct Sample {
  int8_t x[SmallFrozenLayers::kMostInputs];
  int32_t y;
};

Sample SampleOf(uint32_t step, int32_t index) {
  Xorshift random(100 * step + static_cast<uint32_t>(index) + 1);
  Sample sample{};
  sample.y = static_cast<int32_t>(random.Below(SmallModel::kClasses));
  for (int8_t& value : sample.x) value = static_cast<int8_t>(random.Below(201)) - 100;
  return sample;
}

// An update by directions that go through the batch, and exact updates sample by sample.
void Configure(tflm_zo::OnDeviceTrainer* trainer) {
  tflm_zo::ScheduleSettings settings{};
  settings.seed = 4;
  settings.antithetic = 1;
  settings.exact = 1;
  settings.head_rate = 0.05f;
  settings.group_count = 1;
  settings.groups[0] = {tflm_zo::kBatchDirections, 1, 2, kQueries};
  CHECK(trainer->SetSchedule(settings, kBatch) == TrainerStatus::kOk);
  CHECK(trainer->SetParameter(1, 50, 0.01f) == TrainerStatus::kOk);
}

struct State {
  uint8_t bytes[SmallModel::kStateBytes];
};

State StateOf(const SmallModel& model) {
  State state;
  model.CopyState(state.bytes);
  return state;
}

// As one: the features are the samples.
State TrainedWhole(int inputs) {
  SmallModel model;
  tflm_zo::OnDeviceTrainer trainer(&model);
  CHECK(trainer.Start() == TrainerStatus::kOk);
  CHECK_EQ(trainer.kept_bytes(), trainer.input_bytes());
  Configure(&trainer);
  for (uint32_t step = 0; step < kSteps; ++step) {
    CHECK(trainer.BeginStep(step, kBatch, 1.0f) == TrainerStatus::kOk);
    int32_t index;
    while (trainer.NextPass(&index)) {
      const Sample sample = SampleOf(step, index);
      int8_t features[SmallModel::kFeatures];
      for (int i = 0; i < SmallModel::kFeatures; ++i) {
        features[i] = SmallFrozenLayers::Feature(sample.x, inputs, i);
      }
      CHECK(trainer.RunPass(features, &sample.y) == TrainerStatus::kOk);
    }
  }
  CHECK(trainer.Finish(nullptr, nullptr) == TrainerStatus::kOk);
  CHECK_EQ(trainer.frozen_runs(), 0u);
  return StateOf(model);
}

struct Apart {
  State state;
  uint32_t frozen_runs;
};

// In two parts, from a batch in memory.
Apart TrainedApart(int inputs) {
  SmallModel model;
  SmallFrozenLayers frozen(inputs);
  tflm_zo::OnDeviceTrainer trainer({&model, &frozen});
  CHECK(trainer.Start() == TrainerStatus::kOk);
  CHECK_EQ(trainer.input_bytes(), static_cast<uint32_t>(inputs));
  Configure(&trainer);
  uint8_t memory[kBatch * sizeof(Sample)];
  for (uint32_t step = 0; step < kSteps; ++step) {
    tflm_zo::SampleBatch batch(memory, sizeof(memory), trainer.input_bytes(),
                               trainer.target_bytes(), trainer.kept_bytes());
    for (int32_t i = 0; i < kBatch; ++i) {
      const Sample sample = SampleOf(step, i);
      std::memcpy(batch.next_input(), sample.x, trainer.input_bytes());
      std::memcpy(batch.next_target(), &sample.y, sizeof(sample.y));
      CHECK(trainer.Reduce(batch.next_input()) == TrainerStatus::kOk);
      batch.Commit();
    }
    CHECK(trainer.BeginStep(step, kBatch, 1.0f) == TrainerStatus::kOk);
    int32_t index;
    while (trainer.NextPass(&index)) {
      CHECK(trainer.RunReduced(batch.kept(index), batch.target(index)) == TrainerStatus::kOk);
    }
  }
  CHECK(trainer.Finish(nullptr, nullptr) == TrainerStatus::kOk);
  CHECK_EQ(trainer.frozen_runs(), frozen.invocations);
  return {StateOf(model), frozen.invocations};
}

TEST(WhatIsSmallerThanASampleIsKeptInstead) {
  constexpr int kWide = 2 * SmallModel::kFeatures;
  const Apart apart = TrainedApart(kWide);
  CHECK_BYTES_EQ(apart.state.bytes, TrainedWhole(kWide).bytes, sizeof(State));
  CHECK_EQ(apart.frozen_runs, kSteps * kBatch);
}

TEST(ElseTheFrozenLayersRunForEachSampleInTurn) {
  constexpr int kNarrow = 2;
  const Apart apart = TrainedApart(kNarrow);
  CHECK_BYTES_EQ(apart.state.bytes, TrainedWhole(kNarrow).bytes, sizeof(State));
  CHECK_EQ(apart.frozen_runs, kSteps * (kPassesAStep + kBatch));
}

// A model in two parts, ready to train.
struct Parts {
  Parts() {
    CHECK(trainer.Start() == TrainerStatus::kOk);
    Configure(&trainer);
  }

  SmallModel model;
  SmallFrozenLayers frozen{2};
  tflm_zo::OnDeviceTrainer trainer{{&model, &frozen}};
};

TEST(PassesOnOneSampleInARowShareARun) {
  Parts parts;
  const Sample sample = SampleOf(0, 0);
  for (uint32_t step = 0; step < 3; ++step) {
    CHECK(parts.trainer.BeginStep(step, 1, 1.0f) == TrainerStatus::kOk);
    int32_t index;
    while (parts.trainer.NextPass(&index)) {
      CHECK(parts.trainer.RunPass(sample.x, &sample.y) == TrainerStatus::kOk);
    }
    CHECK_EQ(parts.frozen.invocations, 2 * step + 1);
    // The next step may be on another sample, and this pass is.
    CHECK(parts.trainer.Infer(SampleOf(1, 1).x) == TrainerStatus::kOk);
    CHECK_EQ(parts.frozen.invocations, 2 * step + 2);
  }
}

TEST(AnotherPassInBetweenCostsARun) {
  Parts parts;
  const Sample sample = SampleOf(0, 0);
  CHECK(parts.trainer.BeginStep(0, 1, 1.0f) == TrainerStatus::kOk);
  int32_t index;
  CHECK(parts.trainer.NextPass(&index));
  CHECK(parts.trainer.RunPass(sample.x, &sample.y) == TrainerStatus::kOk);
  CHECK(parts.trainer.Evaluate(SampleOf(2, 2).x, &sample.y) == TrainerStatus::kOk);
  CHECK(parts.trainer.NextPass(&index));
  CHECK(parts.trainer.RunPass(sample.x, &sample.y) == TrainerStatus::kOk);
  CHECK_EQ(parts.frozen.invocations, 3u);
}

TEST(FailuresOfTheFrozenLayersBreakTheStepOff) {
  Parts parts;
  const Sample sample = SampleOf(0, 0);
  CHECK(parts.trainer.BeginStep(0, 1, 1.0f) == TrainerStatus::kOk);
  int32_t index;
  CHECK(parts.trainer.NextPass(&index));
  parts.frozen.fails = true;
  CHECK(parts.trainer.RunPass(sample.x, &sample.y) == TrainerStatus::kPassFailed);
  CHECK(!parts.trainer.NextPass(&index));
  CHECK(parts.trainer.Infer(sample.x) == TrainerStatus::kPassFailed);
}

TEST(PartsThatDoNotFitAreRefused) {
  SmallModel model;
  SmallFrozenLayers frozen(2);
  frozen.features -= 1;
  tflm_zo::OnDeviceTrainer trainer({&model, &frozen});
  CHECK(trainer.Start() == TrainerStatus::kNotPatched);
}

TEST(ABatchHoldsOneWholeSample) {
  uint8_t memory[64];
  CHECK_EQ(tflm_zo::SampleBatch(memory, 11, 8, 4, 8).capacity(), 0);
  CHECK_EQ(tflm_zo::SampleBatch(memory, 12, 8, 4, 2).capacity(), 1);
  CHECK_EQ(tflm_zo::SampleBatch(memory, 17, 8, 4, 2).capacity(), 1);
  CHECK_EQ(tflm_zo::SampleBatch(memory, 18, 8, 4, 2).capacity(), 2);
  CHECK_EQ(tflm_zo::SampleBatch(memory, 36, 8, 4, 8).capacity(), 3);
}

// Places of two blocks that do not overlap, somewhere in `size` bytes.
void PlaceTwo(Xorshift* random, uint32_t size, uint32_t a, uint32_t b, uint32_t* at_a,
              uint32_t* at_b) {
  do {
    *at_a = random->Below(size - a + 1);
    *at_b = random->Below(size - b + 1);
  } while (*at_a < *at_b + b && *at_b < *at_a + a);
}

TEST(BlocksAreMovedAsIfAtOnce) {
  constexpr uint32_t kSize = 24;
  Xorshift random(5);
  uint32_t crossed = 0;
  for (int round = 0; round < 20000; ++round) {
    uint8_t memory[kSize];
    for (uint32_t i = 0; i < kSize; ++i) memory[i] = static_cast<uint8_t>(i + 1);
    const uint32_t a = 1 + random.Below(kSize / 2);
    const uint32_t b = 1 + random.Below(kSize / 2);
    uint32_t from_a, from_b, to_a, to_b;
    PlaceTwo(&random, kSize, a, b, &from_a, &from_b);
    PlaceTwo(&random, kSize, a, b, &to_a, &to_b);
    uint8_t before[kSize];
    std::memcpy(before, memory, kSize);
    const bool a_blocks = to_b < from_a + a && from_a < to_b + b;
    const bool b_blocks = to_a < from_b + b && from_b < to_a + a;
    crossed += a_blocks && b_blocks ? 1u : 0u;
    tflm_zo::MoveTogether({memory + to_a, memory + from_a, a}, {memory + to_b, memory + from_b, b});
    if (!CHECK_BYTES_EQ(memory + to_a, before + from_a, a)) return;
    if (!CHECK_BYTES_EQ(memory + to_b, before + from_b, b)) return;
  }
  CHECK(crossed > 1000);
}

}  // namespace

CHECK_MAIN()
