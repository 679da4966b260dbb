// SPDX-License-Identifier: Apache-2.0
//
// Vector operations for the inner loops: plain C++ that any compiler can vectorize. Also the
// contract that the other simd_*.h files follow:
//   I32      a vector of kLanes int32; sums wrap around
//   Weights  4 signed bytes for each lane; Bytes  the same 4 unsigned bytes for every lane
//   Dot      acc + the four products of each lane;  MultiplyAdd  acc + x * w, |x|, |w| < 2^15
//   Scale    Requantization for kLanes channels from LoadScale, or for all lanes from MakeScale
//   Store, StoreInt8   write the first min(count, kLanes) lanes; StoreInt8 clamps to the activation
//   kGemmRows x kGemmBlocks   the tile that the registers hold
// Everything is in an unnamed namespace, so that no code compiled for one instruction set can be
// linked into the path of another.
#ifndef TFLM_ZO_SIM_SIMD_PORTABLE_H_
#define TFLM_ZO_SIM_SIMD_PORTABLE_H_

#include <cstdint>

#include "requantize.h"

namespace tflm_zo {
namespace sim {
namespace {

struct Portable {
  static constexpr int kLanes = 16;
  static constexpr int kGemmRows = 2;
  static constexpr int kGemmBlocks = 1;
  static constexpr int kDepthwiseRows = 2;

  struct I32 {
    int32_t lane[kLanes];
  };
  struct Weights {
    const int8_t* from;
  };
  struct Bytes {
    const uint8_t* from;
  };
  struct Scale {
    I32 multiplier;
    I32 left_shift;
    I32 right_shift;
    int32_t offset;
    int32_t low;
    int32_t high;
  };

  static int32_t WrappingAdd(int32_t a, int32_t b) {
    return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
  }

  static I32 Broadcast(int32_t x) {
    I32 result;
    for (int i = 0; i < kLanes; ++i) result.lane[i] = x;
    return result;
  }
  template <class T>
  static I32 LoadAny(const T* from) {
    I32 result;
    for (int i = 0; i < kLanes; ++i) result.lane[i] = from[i];
    return result;
  }
  static I32 Load(const int32_t* from) { return LoadAny(from); }
  static I32 LoadUnsigned(const uint8_t* from) { return LoadAny(from); }
  static I32 LoadSigned(const int8_t* from) { return LoadAny(from); }
  static I32 Plus(I32 a, const I32& b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] = WrappingAdd(a.lane[i], b.lane[i]);
    return a;
  }
  static I32 Subtract(I32 a, const I32& b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] -= b.lane[i];
    return a;
  }
  template <int kBits>
  static I32 ShiftLeft(I32 x) {
    for (int i = 0; i < kLanes; ++i) x.lane[i] *= 1 << kBits;
    return x;
  }
  static I32 Maximum(I32 a, const I32& b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
  }
  static I32 MultiplyAdd(I32 acc, const I32& x, const I32& w) {
    for (int i = 0; i < kLanes; ++i) {
      acc.lane[i] = WrappingAdd(acc.lane[i], x.lane[i] * w.lane[i]);
    }
    return acc;
  }

  static Weights LoadWeights(const int8_t* from) { return {from}; }
  static Bytes BroadcastQuad(const uint8_t* from) { return {from}; }
  static I32 Dot(I32 acc, Bytes x, Weights w) {
    for (int i = 0; i < kLanes; ++i) {
      const int8_t* quad = w.from + 4 * i;
      const int32_t sum =
          x.from[0] * quad[0] + x.from[1] * quad[1] + x.from[2] * quad[2] + x.from[3] * quad[3];
      acc.lane[i] = WrappingAdd(acc.lane[i], sum);
    }
    return acc;
  }

  static Scale MakeScale(int32_t multiplier, int32_t left_shift, int32_t right_shift,
                         int32_t offset, int32_t low, int32_t high) {
    return {
        Broadcast(multiplier), Broadcast(left_shift), Broadcast(right_shift), offset, low, high};
  }
  static Scale LoadScale(const Requantization& r, int channel) {
    return {Load(r.multiplier + channel),
            Load(r.left_shift + channel),
            Load(r.right_shift + channel),
            r.output_offset,
            r.activation_min,
            r.activation_max};
  }
  static I32 Requantize(I32 x, const Scale& scale) {
    for (int i = 0; i < kLanes; ++i) {
      const int32_t scaled = Rescale(x.lane[i], scale.multiplier.lane[i], scale.left_shift.lane[i],
                                     scale.right_shift.lane[i]);
      x.lane[i] = WrappingAdd(scaled, scale.offset);
    }
    return x;
  }

  static void Store(int32_t* to, const I32& x, int count) {
    for (int i = 0; i < kLanes && i < count; ++i) to[i] = x.lane[i];
  }
  static void StoreInt8(int8_t* to, const I32& x, const Scale& scale, int count) {
    for (int i = 0; i < kLanes && i < count; ++i) {
      to[i] = ClampToInt8(x.lane[i], scale.low, scale.high);
    }
  }
};

}  // namespace
}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_SIMD_PORTABLE_H_
