// SPDX-License-Identifier: Apache-2.0
//
// The matrix product, written once over a vector type `Simd` (simd_*.h). Included only by the
// kernels_*.cc sources, each of which is compiled for its own instruction set.
#ifndef TFLM_ZO_SIM_GEMM_INL_H_
#define TFLM_ZO_SIM_GEMM_INL_H_

#include "kernels.h"

namespace tflm_zo {
namespace sim {

// One tile: `rows` (at most Simd::kGemmRows) pixels by Blocks channel blocks, held in registers.
template <class Simd, int Blocks>
static inline void GemmTile(const GemmProblem& p, int first_pixel, int rows, int first_block) {
  using I32 = typename Simd::I32;
  constexpr int kRows = Simd::kGemmRows;
  constexpr int kVectors = Blocks * (kChannelBlock / Simd::kLanes);
  const int first_channel = first_block * kChannelBlock;

  // A short tile repeats its last pixel, so that the loops below have a constant length.
  const uint8_t* row[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    row[r] = p.input + p.pixel_offsets[first_pixel + (r < rows ? r : rows - 1)];
  }

  I32 acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const I32 bias = Simd::Load(p.bias + first_channel + v * Simd::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) acc[r][v] = bias;
  }

  const int64_t block_bytes = static_cast<int64_t>(p.segments) * p.quads * 4 * kChannelBlock;
  const int8_t* weights = p.weights + first_block * block_bytes;
  for (int s = 0; s < p.segments; ++s) {
    const int32_t segment = p.segment_offsets[s];
    for (int q = 0; q < p.quads; ++q) {
      typename Simd::Weights w[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        constexpr int kPerBlock = kChannelBlock / Simd::kLanes;
        w[v] = Simd::LoadWeights(weights + (v / kPerBlock) * block_bytes +
                                 (v % kPerBlock) * 4 * Simd::kLanes);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const typename Simd::Bytes x = Simd::BroadcastQuad(row[r] + segment + 4 * q);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) acc[r][v] = Simd::Dot(acc[r][v], x, w[v]);
      }
      weights += 4 * kChannelBlock;
    }
  }

#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const int channel = first_channel + v * Simd::kLanes;
    const int count = p.channels - channel;
    if (count <= 0) break;
    const typename Simd::Scale scale = Simd::LoadScale(p.requantization, channel);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows) break;
      const int64_t at = static_cast<int64_t>(first_pixel + r) * p.output_stride + channel;
      if (p.accumulators != nullptr) Simd::Store(p.accumulators + at, acc[r][v], count);
      Simd::StoreInt8(p.output + at, Simd::Requantize(acc[r][v], scale), scale, count);
    }
  }
}

template <class Simd, int Blocks>
static inline void GemmBlocks(const GemmProblem& p, int first_block) {
  constexpr int kRows = Simd::kGemmRows;
  int pixel = 0;
  for (; pixel + kRows <= p.pixels; pixel += kRows) {
    GemmTile<Simd, Blocks>(p, pixel, kRows, first_block);
  }
  if (pixel < p.pixels) GemmTile<Simd, Blocks>(p, pixel, p.pixels - pixel, first_block);
}

// Channel blocks are the outer loop: their weights stay in the first-level cache meanwhile.
template <class Simd>
static void Gemm(const GemmProblem& p) {
  const int blocks = (p.channels + kChannelBlock - 1) / kChannelBlock;
  int block = 0;
  for (; block + Simd::kGemmBlocks <= blocks; block += Simd::kGemmBlocks) {
    GemmBlocks<Simd, Simd::kGemmBlocks>(p, block);
  }
  for (; block < blocks; ++block) GemmBlocks<Simd, 1>(p, block);
}

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_GEMM_INL_H_
