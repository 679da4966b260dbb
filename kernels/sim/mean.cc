// SPDX-License-Identifier: Apache-2.0
#include "mean.h"

#include <cstddef>

#include "requantize.h"

namespace tflm_zo {
namespace sim {

MeanLayer::MeanLayer(const KernelTable* kernels, const TflmZoSimMeanParams& params)
    : kernels_(kernels), params_(params), sums_(static_cast<size_t>(params.inner)) {}

void MeanLayer::Run(const LayerIo& io) {
  const TflmZoSimMeanParams& p = params_;
  const int64_t block = static_cast<int64_t>(p.count) * p.inner;
  const int8_t* input = io.inputs[0];
  int8_t* output = io.output;
  for (int64_t i = 0; i < static_cast<int64_t>(io.samples) * p.outer; ++i) {
    kernels_->sum({input, 1, block, p.count, p.inner}, sums_.data());
    for (int32_t c = 0; c < p.inner; ++c) {
      const int32_t sum = sums_[c] - p.input_zero_point * p.count;
      const int32_t mean = Rescale(sum, p.multiplier, p.left_shift, p.right_shift);
      output[c] = ClampToInt8(mean + p.output_zero_point, -128, 127);
    }
    input += block;
    output += p.inner;
  }
}

}  // namespace sim
}  // namespace tflm_zo
