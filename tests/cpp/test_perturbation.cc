// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstring>

#include "check.h"
#include "momentum.h"
#include "perturbation.h"
#include "vectors.h"

using namespace tflm_zo;

namespace {

constexpr int32_t kCount = 300;
constexpr int32_t kHeadroom = 4;

Update MakeUpdate(const uint32_t* keys, const float* slopes, const float* factors) {
  Update update{};
  update.count = kCount;
  update.headroom = kHeadroom;
  update.channels = 3;
  update.channel_stride = 100;
  update.factors = factors;
  update.rate = 0.5f;
  update.sigma = 2.0f;
  update.keys = keys;
  update.slopes = slopes;
  update.queries = 3;
  update.rounding_key = 77;
  return update;
}

constexpr uint32_t kKeys[3] = {1, 2, 3};
constexpr float kSlopes[3] = {0.25f, -0.5f, 1.5f};
constexpr float kFactors[3] = {1.0f, 10.0f, 0.1f};

}  // namespace

TEST(PerturbingIsUndoneExactlyAndSparesWeightsWithoutHeadroom) {
  int8_t initial[kCount];
  FillCodes(initial, kCount, 9);
  int8_t w[kCount];
  std::memcpy(w, initial, sizeof(w));
  Perturb(w, initial, kCount, kHeadroom, 4, 123);
  CHECK_EQ(Digest(w, kCount), 1510340478u);
  for (int32_t i = 0; i < kCount; ++i) {
    const bool spared = initial[i] > 123 || initial[i] < -123;
    CHECK_EQ(w[i] == initial[i], spared);
  }
  Perturb(w, initial, kCount, kHeadroom, -4, 123);
  CHECK_BYTES_EQ(w, initial, sizeof(w));
}

TEST(UpdateMovesAgainstTheSlopesAndKeepsHeadroom) {
  int8_t initial[kCount];
  FillCodes(initial, kCount, 9);
  int8_t w[kCount];
  std::memcpy(w, initial, sizeof(w));
  const Update update = MakeUpdate(kKeys, kSlopes, kFactors);
  for (int32_t step = 0; step < 20; ++step) ApplyUpdate(w, initial, update);
  for (int32_t i = 0; i < kCount; ++i) {
    if (initial[i] > 123 || initial[i] < -123) {
      CHECK_EQ(w[i], initial[i]);
    } else {
      CHECK(w[i] <= 123 && w[i] >= -123);
    }
  }
  CHECK_EQ(Digest(w, kCount), 744484372u);
}

TEST(BiasesAreUpdatedLikeWeights) {
  int32_t initial[kCount];
  for (int32_t i = 0; i < kCount; ++i) initial[i] = 1000 * i - 150000;
  int32_t b[kCount];
  std::memcpy(b, initial, sizeof(b));
  ApplyUpdate(b, initial, MakeUpdate(kKeys, kSlopes, kFactors));
  CHECK_EQ(Digest(b, kCount), 1334630136u);
}

TEST(MomentumStepsHaveOneSize) {
  int8_t initial[kCount] = {};
  int8_t w[kCount] = {};
  float moments[Momentum::Words(kCount)] = {};
  Update update = MakeUpdate(kKeys, kSlopes, kFactors);
  update.channels = 1;
  update.channel_stride = 1;
  update.rate = 0.3f;
  update.moments = moments;
  for (int32_t step = 0; step < 10; ++step) ApplyUpdate(w, initial, update);
  // The gradient does not change, so ten steps of 0.3 codes are three codes one way or the other.
  for (int32_t i = 0; i < kCount; ++i) CHECK(w[i] == 3 || w[i] == -3 || w[i] == 2 || w[i] == -2);
  CHECK_EQ(Digest(w, kCount), 204384947u);
}

CHECK_MAIN()
