// SPDX-License-Identifier: Apache-2.0
#include "add.h"

namespace tflm_zo {
namespace sim {

namespace {

bool IsExactHalf(int32_t multiplier, int32_t right_shift) {
  return multiplier == (1 << 30) && right_shift == 0;
}

}  // namespace

bool HasExactHalf(const TflmZoSimAddParams& p) {
  return IsExactHalf(p.first_multiplier, p.first_right_shift) ||
         IsExactHalf(p.second_multiplier, p.second_right_shift);
}

AddLayer::AddLayer(const KernelTable* kernels, int64_t elements, const TflmZoSimAddParams& p)
    : kernels_(kernels),
      elements_(elements),
      first_is_larger_(IsExactHalf(p.first_multiplier, p.first_right_shift)) {
  problem_.larger_zero_point = first_is_larger_ ? p.first_zero_point : p.second_zero_point;
  problem_.smaller_zero_point = first_is_larger_ ? p.second_zero_point : p.first_zero_point;
  problem_.smaller_multiplier = first_is_larger_ ? p.second_multiplier : p.first_multiplier;
  problem_.smaller_right_shift = first_is_larger_ ? p.second_right_shift : p.first_right_shift;
  problem_.output_multiplier = p.output_multiplier;
  problem_.output_right_shift = p.output_right_shift;
  problem_.output_offset = p.output_zero_point;
  problem_.activation_min = p.activation_min;
  problem_.activation_max = p.activation_max;
}

void AddLayer::Run(const LayerIo& io) {
  const int8_t* larger = io.inputs[first_is_larger_ ? 0 : 1];
  const int8_t* smaller = io.inputs[first_is_larger_ ? 1 : 0];
  kernels_->add(problem_, larger, smaller, elements_ * io.samples, io.output);
}

}  // namespace sim
}  // namespace tflm_zo
