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

// Three channels of 100 elements.
Part MakePart(const float* factors) { return Part{kCount, kHeadroom, {3, 100, 3, factors}, {}, 0}; }

Update MakeUpdate(const uint32_t* keys, const float* slopes, const float* factors) {
  Update update{};
  update.part = MakePart(factors);
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
  const Part part = MakePart(kFactors);
  Perturb(w, initial, part, 4, 123);
  CHECK_EQ(Digest(w, kCount), 1510340478u);
  for (int32_t i = 0; i < kCount; ++i) {
    const bool spared = initial[i] > 123 || initial[i] < -123;
    CHECK_EQ(w[i] == initial[i], spared);
  }
  Perturb(w, initial, part, -4, 123);
  CHECK_BYTES_EQ(w, initial, sizeof(w));
}

TEST(MasksKeepTheSameElementsWhenPerturbingAndUpdating) {
  const uint32_t digests[] = {2024112542u, 1672470258u};
  for (int32_t m = 0; m < 2; ++m) {
    int8_t initial[kCount];
    FillCodes(initial, kCount, 9);
    int8_t w[kCount];
    std::memcpy(w, initial, sizeof(w));
    Update update = MakeUpdate(kKeys, kSlopes, kFactors);
    update.part.mask = Mask{kRandomChannels, 0x3F00};  // as a bfloat16: probability 1/2
    update.part.mask_key = 6;
    // Tensors of the two layouts: channels one after the other, and interleaved.
    if (m == 0) update.part.layout = ChannelLayout{3, 1, 3, kFactors};
    Perturb(w, initial, update.part, 4, 123);
    bool perturbed[kCount];
    int32_t count = 0;
    for (int32_t i = 0; i < kCount; ++i) count += perturbed[i] = w[i] != initial[i];
    CHECK(count > kCount / 8 && count < kCount * 3 / 4);
    Perturb(w, initial, update.part, -4, 123);
    CHECK_BYTES_EQ(w, initial, sizeof(w));
    for (int32_t step = 0; step < 20; ++step) ApplyUpdate(w, initial, update);
    for (int32_t i = 0; i < kCount; ++i) CHECK(perturbed[i] || w[i] == initial[i]);
    for (int32_t i = 0; i < kCount; ++i) {
      if (m == 1 && i % 100 > 0) {
        const bool free = initial[i] <= 123 && initial[i] >= -123;
        const bool before = initial[i - 1] <= 123 && initial[i - 1] >= -123;
        if (free && before) CHECK_EQ(perturbed[i], perturbed[i - 1]);
      }
    }
    CHECK_EQ(Digest(w, kCount), digests[m]);
  }
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
  update.part.layout = ChannelLayout{1, 1, 1, kFactors};
  update.rate = 0.3f;
  update.moments = moments;
  for (int32_t step = 0; step < 10; ++step) ApplyUpdate(w, initial, update);
  // The gradient does not change, so ten steps of 0.3 codes are three codes one way or the other.
  for (int32_t i = 0; i < kCount; ++i) CHECK(w[i] == 3 || w[i] == -3 || w[i] == 2 || w[i] == -2);
  CHECK_EQ(Digest(w, kCount), 204384947u);
}

CHECK_MAIN()
