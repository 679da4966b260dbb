// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "check.h"
#include "head.h"
#include "loss.h"
#include "vectors.h"

using namespace tflm_zo;

namespace {

constexpr int32_t kOutputs = 5;
constexpr int32_t kFeatures = 40;

struct Fixture {
  int8_t weights[kOutputs * kFeatures];
  int8_t residual[kOutputs * kFeatures] = {};
  int32_t bias[kOutputs] = {10, -20, 30, -40, 50};
  int8_t input[kFeatures];
  float accumulator_scales[kOutputs];
  float weight_factors[kOutputs];
  Head head;

  Fixture() {
    FillCodes(weights, kOutputs * kFeatures, 3);
    FillCodes(input, kFeatures, 4);
    for (int32_t j = 0; j < kOutputs; ++j) {
      accumulator_scales[j] = 0.0004f;
      weight_factors[j] = 4.0f;
    }
    head = Head{weights, residual,           bias,          input, kOutputs, kFeatures, -7, 127,
                true,    accumulator_scales, weight_factors};
  }
};

}  // namespace

TEST(LossesAndGradientsAreThoseOfTheDefinition) {
  float logits[kOutputs] = {1.5f, -2.0f, 0.25f, 3.0f, -0.5f};
  double sum = 0.0;
  for (float z : logits) sum += std::exp(static_cast<double>(z));
  const float loss = CrossEntropy(logits, kOutputs, 2);
  CHECK(std::fabs(loss - (std::log(sum) - 0.25)) < 1e-6);
  CrossEntropyGradient(logits, kOutputs, 2);
  float total = 0.0f;
  for (float g : logits) total += g;
  CHECK(std::fabs(total) < 1e-6f);
  CHECK(std::fabs(logits[2] - (std::exp(0.25) / sum - 1.0)) < 1e-6);
  CHECK_EQ(Digest(logits, kOutputs), 3627360697u);

  float unit = 0.7f;
  CHECK(std::fabs(CrossEntropy(&unit, 1, 1) - std::log1p(std::exp(-0.7))) < 1e-6);

  float outputs[2] = {0.5f, -1.0f};
  const int8_t target[2] = {4, -4};
  CHECK(std::fabs(MeanSquaredError(outputs, target, 2, 0.25f, 0) - 0.125f) < 1e-7f);
  MeanSquaredErrorGradient(outputs, target, 2, 0.25f, 0);
  CHECK_EQ(outputs[0] == -0.5f && outputs[1] == 0.0f, true);
}

TEST(EntropyWantsCertainPredictionsOfAllClasses) {
  const float certain[kOutputs] = {9.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  const float unsure[kOutputs] = {1.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  float mean[kOutputs] = {};
  const float before = Entropy(certain, kOutputs, mean);
  CHECK(before < Entropy(unsure, kOutputs, mean));
  for (int32_t i = 0; i < 300; ++i) UpdateMeanPrediction(certain, kOutputs, mean);
  CHECK(mean[0] > 0.7f && mean[0] < 0.8f && mean[1] < 0.0f);
  const float after = Entropy(certain, kOutputs, mean);
  CHECK(after > before + 1.0f);  // the same class again is worth little
  CHECK_EQ(Digest(mean, kOutputs), 3567572787u);
  CHECK_EQ(Digest(&after, 1), 1154815324u);
  float gradient[kOutputs] = {1.5f, -2.0f, 0.25f, 3.0f, -0.5f};
  EntropyGradient(gradient, kOutputs, mean);
  float total = 0.0f;
  for (float g : gradient) total += g;
  CHECK(std::fabs(total) < 1e-6f);
  CHECK_EQ(Digest(gradient, kOutputs), 2037918301u);

  // A sigmoid unit: entropy alone, ln 2 less than itself with a mean that knows nothing.
  float unit = 0.7f;
  const float even = 0.0f;
  const double p = 1.0 / (1.0 + std::exp(-0.7));
  const double entropy = -p * std::log(p) - (1.0 - p) * std::log(1.0 - p);
  CHECK(std::fabs(Entropy(&unit, 1, &even) - (entropy - std::log(2.0))) < 1e-6);
  EntropyGradient(&unit, 1, &even);
  CHECK(std::fabs(unit + p * (1.0 - p) * 0.7) < 1e-6);
}

TEST(HeadLearnsItsSample) {
  Fixture f;
  float logits[kOutputs];
  HighResolutionLogits(f.head, logits);
  int32_t accumulator = 10;
  for (int32_t k = 0; k < kFeatures; ++k) accumulator += f.weights[k] * (f.input[k] + 7);
  CHECK(logits[0] == static_cast<float>(accumulator) * 0.0004f);
  const float before = CrossEntropy(logits, kOutputs, 1);
  for (uint32_t step = 0; step < 30; ++step) {
    HighResolutionLogits(f.head, logits);
    CrossEntropyGradient(logits, kOutputs, 1);
    HeadUpdate(f.head, logits, 0.001f, step);
  }
  HighResolutionLogits(f.head, logits);
  CHECK(CrossEntropy(logits, kOutputs, 1) < 0.5f * before);
  CHECK_EQ(Digest(f.weights, kOutputs * kFeatures), 3913335543u);
  CHECK_EQ(Digest(f.residual, kOutputs * kFeatures), 924181277u);
  CHECK_EQ(Digest(f.bias, kOutputs), 1712668885u);
}

TEST(HeadMayTrainItsBiasAlone) {
  Fixture whole, bias, frozen;
  bias.head.residual = nullptr;
  frozen.head.residual = nullptr;
  frozen.head.trains_bias = false;
  const Fixture before;
  for (Fixture* f : {&whole, &bias, &frozen}) {
    float logits[kOutputs];
    HighResolutionLogits(f->head, logits);
    CrossEntropyGradient(logits, kOutputs, 1);
    HeadUpdate(f->head, logits, 0.1f, 3);
  }
  CHECK_BYTES_EQ(bias.bias, whole.bias, sizeof(whole.bias));
  CHECK(std::memcmp(bias.bias, before.bias, sizeof(whole.bias)) != 0);
  CHECK_BYTES_EQ(bias.weights, before.weights, sizeof(before.weights));
  CHECK_BYTES_EQ(frozen.bias, before.bias, sizeof(before.bias));
}

TEST(FeatureGradientIsTheTransposedProduct) {
  Fixture f;
  float gradient[kOutputs];
  for (int32_t j = 0; j < kOutputs; ++j) gradient[j] = Real(8, j, 1.0f);
  float features[kFeatures];
  FeatureGradient(f.head, gradient, 0.02f, features);
  for (int32_t k = 0; k < kFeatures; ++k) {
    double expected = 0.0;
    for (int32_t j = 0; j < kOutputs; ++j)
      expected += gradient[j] * 0.02 * f.weights[j * kFeatures + k];
    CHECK(std::fabs(features[k] - expected) < 1e-4);
  }
  CHECK_EQ(Digest(features, kFeatures), 3772327285u);
}

CHECK_MAIN()
