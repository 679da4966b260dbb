// SPDX-License-Identifier: Apache-2.0
//
// The arithmetic inner loops, one implementation per instruction set, chosen at run time.
//
// Activations reach these loops as unsigned bytes, x + 128, because the dot-product instructions
// multiply unsigned by signed; layers take the 128 back through the bias (see CorrectBias in
// packing.h). Results are the same to the bit on every instruction set.
#ifndef TFLM_ZO_SIM_KERNELS_H_
#define TFLM_ZO_SIM_KERNELS_H_

#include <cstdint>

#include "requantize.h"

namespace tflm_zo {
namespace sim {

// Bytes that the loops may read beyond the last activation; input buffers must extend so far.
constexpr int kReadSlack = 64;

// Output pixel p, channel n:
//   acc = bias[n] + sum over segments s and bytes k of
//         input[pixel_offsets[p] + segment_offsets[s] + k] * weight[n][s][k],  k < 4 * quads
// `weights` are in the layout of PackGemmWeights (packing.h), `bias` is padded to kChannelBlock.
// Pixel p is written to output[p * output_stride + n] and, if `accumulators` is not null, its acc
// to accumulators[p * output_stride + n].
struct GemmProblem {
  const uint8_t* input;
  const int32_t* pixel_offsets;
  int32_t pixels;
  const int32_t* segment_offsets;
  int32_t segments;
  int32_t quads;
  const int8_t* weights;
  const int32_t* bias;
  Requantization requantization;
  int32_t channels;
  int32_t output_stride;
  int8_t* output;
  int32_t* accumulators;
};

// Output pixel p, channel c:
//   acc = bias[c] + sum over taps t of
//         input[pixel_offsets[p] + tap_offsets[t] + c] * weight[t][c]
// `weights` are in the layout of PackDepthwiseWeights. Outputs as in GemmProblem, with
// output_stride == channels.
struct DepthwiseProblem {
  const uint8_t* input;
  const int32_t* pixel_offsets;
  int32_t pixels;
  const int32_t* tap_offsets;
  int32_t taps;
  const int32_t* weights;
  const int32_t* bias;
  Requantization requantization;
  int32_t channels;
  int8_t* output;
  int32_t* accumulators;
};

// Element i: both inputs, less their zero points and shifted left by kAddHeadroomBits, are rescaled
// to twice the larger of their scales; their sum is rescaled to the output's. For the input with
// the larger scale that rescaling is an exact half, so one bit less of shift does for it.
constexpr int kAddHeadroomBits = 20;

struct AddProblem {
  int32_t larger_zero_point;
  int32_t smaller_zero_point;
  int32_t smaller_multiplier;
  int32_t smaller_right_shift;
  int32_t output_multiplier;
  int32_t output_right_shift;
  int32_t output_offset;
  int32_t activation_min;
  int32_t activation_max;
};

// A rectangle of pixels of an image, within its borders.
struct PixelRectangle {
  const int8_t* first;
  int32_t rows;
  int64_t row_stride;
  int32_t columns;
  int32_t channels;
};

struct KernelTable {
  void (*gemm)(const GemmProblem&);
  void (*depthwise)(const DepthwiseProblem&);
  void (*add)(const AddProblem&, const int8_t* larger, const int8_t* smaller, int64_t count,
              int8_t* output);
  // For each channel, the sum or the maximum over the rectangle; `result` has `channels` elements.
  void (*sum)(const PixelRectangle&, int32_t* result);
  void (*maximum)(const PixelRectangle&, int32_t* result);
};

// Values of the C interface.
enum class InstructionSet : int32_t {
  kAuto = 0,
  kPortable = 1,
  kAvx2 = 2,
  kAvx512Vnni = 3,
  kNeon = 4,
};

// The table for `instruction_set` (kAuto: the fastest that this processor runs), or null where the
// processor or the build lacks it.
const KernelTable* FindKernels(InstructionSet instruction_set);

// The instruction set of a table that FindKernels returned.
InstructionSet InstructionSetOf(const KernelTable* kernels);

extern const KernelTable kPortableKernels;
#if defined(TFLM_ZO_SIM_AVX)  // the build has these sources
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512VnniKernels;
#endif
#if defined(TFLM_ZO_SIM_NEON)
extern const KernelTable kNeonKernels;
#endif

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_KERNELS_H_
