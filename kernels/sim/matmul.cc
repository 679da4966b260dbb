// SPDX-License-Identifier: Apache-2.0
#include "matmul.h"

#include <utility>

#include "requantize.h"

namespace tflm_zo {
namespace sim {

MatmulLayer::MatmulLayer(const TflmZoSimMatmulParams& params, Operand left, Operand right)
    : params_(params), left_(std::move(left)), right_(std::move(right)) {
  gathered_[0].resize(left_.places.size());
  gathered_[1].resize(right_.places.size());
}

void MatmulLayer::Run(const LayerIo& io) {
  const TflmZoSimMatmulParams& p = params_;
  int8_t* output = io.output;
  for (int32_t s = 0; s < io.samples; ++s) {
    const int8_t* left = left_.Values(io, s, gathered_[0].data());
    const int8_t* right = right_.Values(io, s, gathered_[1].data());
    for (int32_t row = 0; row < p.batches * p.rows; ++row, left += p.depth) {
      const int8_t* column = right + row / p.rows * p.columns * p.depth;
      for (int32_t c = 0; c < p.columns; ++c, column += p.depth) {
        int32_t sum = 0;
        for (int32_t i = 0; i < p.depth; ++i) {
          sum += (left[i] - p.left_zero_point) * (column[i] - p.right_zero_point);
        }
        const int32_t scaled = Rescale(sum, p.multiplier, p.left_shift, p.right_shift);
        *output++ = ClampToInt8(scaled + p.output_zero_point, -128, 127);
      }
    }
  }
}

}  // namespace sim
}  // namespace tflm_zo
