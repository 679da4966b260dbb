// SPDX-License-Identifier: Apache-2.0
//
// Learning rates that a device measures: what a pass reports, the formula, and what they are good
// for.
#include <cmath>
#include <initializer_list>

#include "app/on_device_trainer.h"
#include "check.h"
#include "exact_rates.h"
#include "small_model.h"
#include "vectors.h"

using namespace tflm_zo;

namespace {

// Of cross-entropy without an adapter, as the host's.
constexpr float kHeadLimit = 3.0f;

// Of the class whose feature is largest.
struct Sample {
  int8_t x[SmallModel::kFeatures];
  int32_t label;
};

Sample SampleOf(uint32_t seed) {
  Sample sample{};
  FillCodes(sample.x, SmallModel::kFeatures, seed);
  for (int32_t j = 1; j < SmallModel::kClasses; ++j) {
    if (sample.x[j] > sample.x[sample.label]) sample.label = j;
  }
  return sample;
}

// All that training changes.
struct Weights {
  explicit Weights(const SmallModel& model) {
    model.CopyState(bytes);
    model.CopyLayer(bytes + SmallModel::kStateBytes);
  }
  uint8_t bytes[SmallModel::kStateBytes + SmallModel::kLayerBytes];
};

bool Close(double value, double expected, double tolerance) {
  return std::fabs(value - expected) <= tolerance * std::fabs(expected);
}

// dL/dlogits of the head on `features`, as the definition has it.
void LogitGradient(const SmallModel& model, const int8_t* features, int32_t label, double* g) {
  double sum = 0.0;
  for (int j = 0; j < SmallModel::kClasses; ++j) {
    double logit = model.bias()[j];
    for (int i = 0; i < SmallModel::kFeatures; ++i) {
      logit += model.weights()[j * SmallModel::kFeatures + i] * features[i];
    }
    g[j] = std::exp(0.0005 * logit);
    sum += g[j];
  }
  for (int j = 0; j < SmallModel::kClasses; ++j) g[j] = g[j] / sum - (j == label ? 1.0 : 0.0);
}

double SquaredLength(const int8_t* codes, double scale) {
  double sum = 0.0;
  for (int i = 0; i < SmallModel::kFeatures; ++i) sum += scale * scale * codes[i] * codes[i];
  return sum;
}

// Squared length of the gradient of the layer's weights and biases from a dL/dlogits of length 1.
double LayerEnergy(const SmallModel& model, const int8_t* x, const double* g) {
  double length = 0.0;
  for (int j = 0; j < SmallModel::kClasses; ++j) length += g[j] * g[j];
  double energy = 0.0;
  for (int i = 0; i < SmallModel::kFeatures; ++i) {
    if (model.features()[i] == -128 || model.features()[i] == 127) continue;  // saturated
    double slope = 0.0;
    for (int j = 0; j < SmallModel::kClasses; ++j) {
      slope += 0.05 * model.weights()[j * SmallModel::kFeatures + i] * g[j];
    }
    energy += slope * slope / length * (1.0 + SquaredLength(x, SmallModel::kInputScale));
  }
  return energy;
}

// One step of all exact layers.
void Learn(OnDeviceTrainer* trainer, const Sample& sample, uint32_t step,
           const ExactRates<float>& rates) {
  ScheduleSettings settings{};
  settings.seed = 1;
  settings.antithetic = 1;
  settings.exact = 1;
  settings.head_rate = rates.head;
  CHECK(trainer->SetSchedule(settings, 1) == TrainerStatus::kOk);
  CHECK(trainer->SetNode(0, 0, 1, rates.before_head) == TrainerStatus::kOk);
  CHECK(trainer->BeginStep(step, 1, 1.0f) == TrainerStatus::kOk);
  int32_t index;
  while (trainer->NextPass(&index)) {
    CHECK(trainer->RunPass(sample.x, &sample.label) == TrainerStatus::kOk);
  }
}

}  // namespace

TEST(MeasureReportsWhatItSaysAndChangesNothing) {
  for (const bool with_layer : {false, true}) {
    SmallModel model(with_layer);
    CHECK(model.prepared());
    OnDeviceTrainer trainer(&model);
    CHECK(trainer.Start() == TrainerStatus::kOk);
    CHECK_EQ(trainer.node_count(), with_layer ? 1 : 0);
    const Weights before(model);
    for (uint32_t seed = 1; seed < 9; ++seed) {
      const Sample sample = SampleOf(seed);
      CHECK(trainer.Evaluate(sample.x, &sample.label) == TrainerStatus::kOk);
      const Report evaluated = trainer.report();
      CHECK_EQ(evaluated.gradient_energy, 0.0f);
      CHECK_EQ(evaluated.layer_energy, 0.0f);
      CHECK(trainer.Measure(sample.x, &sample.label, 0, trainer.node_count()) ==
            TrainerStatus::kOk);
      const Report& report = trainer.report();
      CHECK_EQ(report.loss, evaluated.loss);
      CHECK_EQ(report.prediction, evaluated.prediction);
      CHECK_EQ(report.feature_energy, evaluated.feature_energy);
      const int8_t* features = with_layer ? model.features() : sample.x;
      CHECK(Close(report.feature_energy, SquaredLength(features, 0.01), 1e-5));
      double g[SmallModel::kClasses], energy = 0.0;
      LogitGradient(model, features, sample.label, g);
      for (double d : g) energy += d * d;
      CHECK(Close(report.gradient_energy, energy, 1e-3));
      if (with_layer) {
        CHECK(Close(report.layer_energy, LayerEnergy(model, sample.x, g), 1e-3));
        // Without the nodes in the range they are not measured.
        CHECK(trainer.Measure(sample.x, &sample.label, 0, 0) == TrainerStatus::kOk);
      }
      CHECK_EQ(trainer.report().layer_energy, 0.0f);
      const Weights after(model);
      CHECK_BYTES_EQ(after.bytes, before.bytes, sizeof(before.bytes));
    }
  }
}

TEST(MeasureTakesBackAPerturbation) {
  SmallModel model;
  OnDeviceTrainer trainer(&model);
  CHECK(trainer.Start() == TrainerStatus::kOk);
  const Weights clean(model);
  ScheduleSettings settings{};
  settings.antithetic = 1;
  settings.group_count = 1;
  settings.groups[0] = {kBatchDirections, 0, 2, 3};
  CHECK(trainer.SetSchedule(settings, 1) == TrainerStatus::kOk);
  CHECK(trainer.SetParameter(0, 2, 0.0f) == TrainerStatus::kOk);
  CHECK(trainer.BeginStep(0, 1, 1.0f) == TrainerStatus::kOk);
  const Sample sample = SampleOf(4);
  int32_t index;
  CHECK(trainer.NextPass(&index));
  CHECK(trainer.RunPass(sample.x, &sample.label) == TrainerStatus::kOk);
  const Weights perturbed(model);
  CHECK(std::memcmp(perturbed.bytes, clean.bytes, sizeof(clean.bytes)) != 0);
  CHECK(trainer.Measure(sample.x, &sample.label, 0, 0) == TrainerStatus::kOk);
  const Weights measured(model);
  CHECK_BYTES_EQ(measured.bytes, clean.bytes, sizeof(clean.bytes));
}

TEST(FrozenLayersRunOnceForAMeasurement) {
  SmallModel model, alone;
  SmallFrozenLayers frozen(SmallFrozenLayers::kMostInputs);
  OnDeviceTrainer trainer({&model, &frozen}), other(&alone);
  CHECK(trainer.Start() == TrainerStatus::kOk && other.Start() == TrainerStatus::kOk);
  int8_t x[SmallFrozenLayers::kMostInputs], features[SmallModel::kFeatures];
  FillCodes(x, sizeof(x), 5);
  for (int i = 0; i < SmallModel::kFeatures; ++i) {
    features[i] = SmallFrozenLayers::Feature(x, sizeof(x), i);
  }
  const int32_t label = 1;
  const uint32_t runs = trainer.frozen_runs();
  CHECK(trainer.Measure(x, &label, 0, 0) == TrainerStatus::kOk);
  CHECK_EQ(trainer.frozen_runs(), runs + 1);
  CHECK(other.Measure(features, &label, 0, 0) == TrainerStatus::kOk);
  CHECK_EQ(trainer.report().gradient_energy, other.report().gradient_energy);
  CHECK_EQ(trainer.report().feature_energy, other.report().feature_energy);
}

TEST(WhatMeasureRefuses) {
  SmallModel model(true);
  OnDeviceTrainer trainer(&model);
  const Sample sample = SampleOf(1);
  CHECK(trainer.Measure(sample.x, &sample.label, 0, 1) == TrainerStatus::kNotStarted);
  CHECK(trainer.Start() == TrainerStatus::kOk);
  const uint32_t invocations = model.invocations;
  CHECK(trainer.Measure(sample.x, &sample.label, -1, 1) == TrainerStatus::kBadParameter);
  CHECK(trainer.Measure(sample.x, &sample.label, 1, 0) == TrainerStatus::kBadParameter);
  CHECK(trainer.Measure(sample.x, &sample.label, 0, 2) == TrainerStatus::kBadParameter);
  CHECK_EQ(model.invocations, invocations);
  const int32_t no_class = SmallModel::kClasses;
  CHECK(trainer.Measure(sample.x, &no_class, 0, 1) == TrainerStatus::kPassFailed);
  CHECK(trainer.Measure(sample.x, &sample.label, 0, 1) == TrainerStatus::kOk);
}

TEST(RatesKeepWithinTheLimits) {
  uint32_t digest = 0;
  for (int32_t i = 0; i < 1000; ++i) {
    const float limit = 0.1f + std::fabs(Real(1, i, 4.0f));
    const float features = std::fabs(Real(2, i, i % 2 == 0 ? 2.0f : 500.0f));
    const float layer = std::fabs(Real(3, i, i % 3 == 0 ? 2.0f : 4000.0f));
    const ExactRates<float> rates = RatesOf(limit, features, layer);
    const auto host = RatesOf<double>(limit, features, layer);
    CHECK(Close(rates.head, host.head, 2e-7));
    CHECK(Close(rates.before_head, host.before_head, 3e-7));
    CHECK(Close(host.head * (1.0 + features), limit, 1e-12));
    CHECK(rates.before_head <= rates.head);
    CHECK(host.before_head * layer <= limit / 3.0 * (1.0 + 1e-12));
    CHECK(host.before_head == host.head || Close(host.before_head * layer, limit / 3.0, 1e-12));
    digest = 31 * digest + Digest(&rates, 1);
  }
  CHECK_EQ(digest, 1264823640u);
  // No nodes, or nothing to learn.
  const ExactRates<float> alone = RatesOf(3.0f, 1.0f, 0.0f);
  CHECK_EQ(alone.head, 1.5f);
  CHECK_EQ(alone.before_head, 1.5f);
  Report report{};
  report.feature_energy = 2.0f;
  report.layer_energy = 4.0f;
  CHECK_EQ(RatesOf(3.0f, report).head, 1.0f);
  CHECK_EQ(RatesOf(3.0f, report).before_head, 0.25f);
}

TEST(SamplesAreLearnedAtTheRatesThatTheyAreMeasuredToBear) {
  constexpr uint32_t kSamples = 12;
  SmallModel model(true);
  OnDeviceTrainer trainer(&model);
  CHECK(trainer.Start() == TrainerStatus::kOk);
  const auto loss = [&trainer] {
    float sum = 0.0f;
    for (uint32_t seed = 1; seed <= kSamples; ++seed) {
      const Sample sample = SampleOf(seed);
      CHECK(trainer.Evaluate(sample.x, &sample.label) == TrainerStatus::kOk);
      sum += trainer.report().loss;
    }
    return sum;
  };
  const float before = loss();
  for (uint32_t step = 0; step < 5 * kSamples; ++step) {
    const Sample sample = SampleOf(1 + step % kSamples);
    CHECK(trainer.Measure(sample.x, &sample.label, 0, 1) == TrainerStatus::kOk);
    const ExactRates<float> rates = RatesOf(kHeadLimit, trainer.report());
    CHECK(rates.before_head > 0.0f && rates.before_head <= rates.head);
    Learn(&trainer, sample, step, rates);
  }
  CHECK(loss() < 0.5f * before);
  const Weights trained(model);
  CHECK_EQ(Digest(trained.bytes, sizeof(trained.bytes)), 1541982200u);
}

CHECK_MAIN()
