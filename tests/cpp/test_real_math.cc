// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>

#include "check.h"
#include "real_math.h"
#include "vectors.h"

using namespace tflm_zo;

TEST(ExponentialAndLogarithmAreAccurateAndTheSameEverywhere) {
  float results[2000];
  for (int32_t i = 0; i < 1000; ++i) {
    const float x = -0.03f * static_cast<float>(i);
    results[i] = ExpNonPositive(x);
    CHECK(std::fabs(results[i] / std::exp(static_cast<double>(x)) - 1.0) < 3e-7);
    const float y = 1.0f + 0.37f * static_cast<float>(i);
    results[1000 + i] = LogPositive(y);
    CHECK(std::fabs(results[1000 + i] - std::log(static_cast<double>(y))) < 1e-6);
  }
  CHECK_EQ(Digest(results, 2000), 2772613518u);
}

TEST(StochasticRoundingHitsTheNeighboursWithTheRightOdds) {
  int32_t rounded[4000];
  int32_t sum = 0;
  for (int32_t i = 0; i < 4000; ++i) {
    rounded[i] = StochasticRound(-2.3f, RandomWord(5, static_cast<uint32_t>(i)));
    CHECK(rounded[i] == -2 || rounded[i] == -3);
    sum += rounded[i];
  }
  CHECK(sum > -9350 && sum < -9050);
  CHECK_EQ(StochasticRound(7.0f, 0), 7);
  CHECK_EQ(StochasticRound(1e20f, 0), 1073741824);
  CHECK_EQ(StochasticRound(-1e20f, 0), -1073741824);
  CHECK_EQ(Digest(rounded, 4000), 2617296342u);
}

CHECK_MAIN()
