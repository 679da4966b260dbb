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

// Which elements of a block the mask keeps: bit j of the result is element first + j.
uint32_t KeptElements(const ChannelMask& mask, const ChannelLayout& layout, int32_t first,
                      int32_t count) {
  if (mask.KeepsAll()) return ~0u;
  uint32_t bits = 0;
  for (int32_t j = 0; j < count; ++j) {
    bits |= static_cast<uint32_t>(mask.Keeps(layout.Of(first + j))) << j;
  }
  return bits;
}

template <typename T>
void PerturbTensor(T* w, const T* initial, const Part& part, int32_t amount, uint32_t key) {
  const int32_t limit = Limit(w);
  const ChannelMask mask(part.mask, part.mask_key);
  for (int32_t start = 0; start < part.count; start += kBlock) {
    const uint32_t signs = SignWord(key, static_cast<uint32_t>(start / kBlock));
    const int32_t end = part.count - start < kBlock ? part.count - start : kBlock;
    const uint32_t kept = KeptElements(mask, part.layout, start, end);
    for (int32_t j = 0; j < end; ++j) {
      const int32_t delta = ((signs >> j) & 1u) ? amount : -amount;
      const bool takes_part =
          ((kept >> j) & 1u) & HasHeadroom(initial[start + j], limit, part.headroom);
      const int32_t change = takes_part ? delta : 0;
      // Not signed: what is added to a value that should have headroom, and has not, is taken away
      // again.
      w[start + j] =
          static_cast<T>(static_cast<uint32_t>(w[start + j]) + static_cast<uint32_t>(change));
    }
  }
}

template <typename T>
void UpdateTensor(T* w, const T* initial, const Update& update) {
  const Part& part = update.part;
  const int32_t bound = Limit(w) - part.headroom;
  const ChannelMask mask(part.mask, part.mask_key);
  const Momentum momentum(update.moments, part.count);
  const float plain_rate = update.rate / update.sigma;
  for (int32_t start = 0; start < part.count; start += kBlock) {
    const int32_t end = part.count - start < kBlock ? part.count - start : kBlock;
    const uint32_t kept = KeptElements(mask, part.layout, start, end);
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
      if (!((kept >> j) & 1u) || !HasHeadroom(initial[i], Limit(w), part.headroom)) continue;
      const float factor = part.layout.Factor(part.layout.Of(i));
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

void Perturb(int8_t* w, const int8_t* initial, const Part& part, int32_t amount, uint32_t key) {
  PerturbTensor(w, initial, part, amount, key);
}

void Perturb(int32_t* w, const int32_t* initial, const Part& part, int32_t amount, uint32_t key) {
  PerturbTensor(w, initial, part, amount, key);
}

void ApplyUpdate(int8_t* w, const int8_t* initial, const Update& update) {
  UpdateTensor(w, initial, update);
}

void ApplyUpdate(int32_t* w, const int32_t* initial, const Update& update) {
  UpdateTensor(w, initial, update);
}

}  // namespace tflm_zo
