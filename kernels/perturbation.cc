// SPDX-License-Identifier: Apache-2.0
#include "perturbation.h"

#include <cmath>

#include "momentum.h"
#include "random.h"
#include "real_math.h"

namespace tflm_zo {
namespace {

constexpr int32_t kBlock = 32;  // elements that share one word of signs

constexpr int32_t Limit(const int8_t*) { return kMaxWeight; }
constexpr int32_t Limit(const int32_t*) { return kMaxBias; }

template <typename T>
void PerturbTensor(T* w, const T* initial, int32_t count, int32_t headroom, int32_t amount,
                   uint32_t key) {
  const int32_t limit = Limit(w);
  for (int32_t start = 0; start < count; start += kBlock) {
    const uint32_t signs = SignWord(key, static_cast<uint32_t>(start / kBlock));
    const int32_t end = count - start < kBlock ? count - start : kBlock;
    for (int32_t j = 0; j < end; ++j) {
      const int32_t delta = ((signs >> j) & 1u) ? amount : -amount;
      const int32_t change = HasHeadroom(initial[start + j], limit, headroom) ? delta : 0;
      w[start + j] = static_cast<T>(w[start + j] + change);
    }
  }
}

template <typename T>
void UpdateTensor(T* w, const T* initial, const Update& update) {
  const int32_t bound = Limit(w) - update.headroom;
  const Momentum momentum(update.moments, update.count);
  const float plain_rate = update.rate / update.sigma;
  for (int32_t start = 0; start < update.count; start += kBlock) {
    const int32_t end = update.count - start < kBlock ? update.count - start : kBlock;
    float gradient[kBlock] = {};
    for (int32_t q = 0; q < update.queries; ++q) {
      const uint32_t signs = SignWord(update.keys[q], static_cast<uint32_t>(start / kBlock));
      const float slope = update.slopes[q];
      for (int32_t j = 0; j < end; ++j) {
        gradient[j] += ((signs >> j) & 1u) ? slope : -slope;
      }
    }
    for (int32_t j = 0; j < end; ++j) {
      const int32_t i = start + j;
      if (!HasHeadroom(initial[i], Limit(w), update.headroom)) continue;
      const float factor = update.factors[(i / update.channel_stride) % update.channels];
      int32_t change;
      if (update.moments == nullptr) {
        change = StochasticRound(plain_rate * factor * gradient[j],
                                 RandomWord(update.rounding_key, static_cast<uint32_t>(i)));
      } else {
        // IEEE-754 requires square roots to be rounded correctly, so they agree everywhere.
        const float step = update.rate * std::sqrt(factor);
        change = momentum.WholeCodes(i, step * momentum.Direction(i, gradient[j]));
      }
      int64_t value = static_cast<int64_t>(w[i]) - change;
      if (value > bound) value = bound;
      if (value < -bound) value = -bound;
      w[i] = static_cast<T>(value);
    }
  }
}

}  // namespace

void Perturb(int8_t* w, const int8_t* initial, int32_t count, int32_t headroom, int32_t amount,
             uint32_t key) {
  PerturbTensor(w, initial, count, headroom, amount, key);
}

void Perturb(int32_t* w, const int32_t* initial, int32_t count, int32_t headroom, int32_t amount,
             uint32_t key) {
  PerturbTensor(w, initial, count, headroom, amount, key);
}

void ApplyUpdate(int8_t* w, const int8_t* initial, const Update& update) {
  UpdateTensor(w, initial, update);
}

void ApplyUpdate(int32_t* w, const int32_t* initial, const Update& update) {
  UpdateTensor(w, initial, update);
}

}  // namespace tflm_zo
