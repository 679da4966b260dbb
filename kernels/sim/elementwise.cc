// SPDX-License-Identifier: Apache-2.0
#include "elementwise.h"

#include <cstddef>
#include <utility>

#include "kernels.h"
#include "requantize.h"

namespace tflm_zo {
namespace sim {
namespace {

template <class Function>
PairTable TableOf(const Function& function) {
  PairTable table;
  table.reserve(256 * 256);
  for (int32_t first = -128; first < 128; ++first) {
    for (int32_t second = -128; second < 128; ++second) table.push_back(function(first, second));
  }
  return table;
}

}  // namespace

PairTable SumTable(const TflmZoSimAddParams& p, bool subtract) {
  return TableOf([&](int32_t first, int32_t second) {
    const int32_t x = Rescale((first - p.first_zero_point) * (1 << kAddHeadroomBits),
                              p.first_multiplier, 0, p.first_right_shift);
    const int32_t y = Rescale((second - p.second_zero_point) * (1 << kAddHeadroomBits),
                              p.second_multiplier, 0, p.second_right_shift);
    const int32_t scaled =
        Rescale(subtract ? x - y : x + y, p.output_multiplier, 0, p.output_right_shift);
    return ClampToInt8(scaled + p.output_zero_point, p.activation_min, p.activation_max);
  });
}

PairTable ProductTable(const TflmZoSimProductParams& p) {
  return TableOf([&](int32_t first, int32_t second) {
    const int32_t product = (first - p.first_zero_point) * (second - p.second_zero_point);
    const int32_t scaled = Rescale(product, p.multiplier, p.left_shift, p.right_shift);
    return ClampToInt8(scaled + p.output_zero_point, p.activation_min, p.activation_max);
  });
}

ElementwiseLayer::ElementwiseLayer(int64_t elements, PairTable table, Operand first, Operand second)
    : elements_(elements),
      table_(std::move(table)),
      operands_{std::move(first), std::move(second)} {
  for (int i = 0; i < 2; ++i) {
    gathered_[i].resize(operands_[i].places.size());
  }
}

void ElementwiseLayer::Run(const LayerIo& io) {
  int8_t* output = io.output;
  for (int32_t s = 0; s < io.samples; ++s) {
    const int8_t* values[2];
    for (int i = 0; i < 2; ++i) values[i] = operands_[i].Values(io, s, gathered_[i].data());
    for (int64_t e = 0; e < elements_; ++e) {
      output[e] = table_[(values[0][e] + 128) * 256 + values[1][e] + 128];
    }
    output += elements_;
  }
}

}  // namespace sim
}  // namespace tflm_zo
