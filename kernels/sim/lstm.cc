// SPDX-License-Identifier: Apache-2.0
#include "lstm.h"

#include <algorithm>
#include <cstddef>

#include "requantize.h"

namespace tflm_zo {
namespace sim {
namespace {

enum Gate : int32_t { kInputGate, kForgetGate, kCellGate, kOutputGate };
// Behind those of the gates, two of each.
enum ProductOf : int32_t { kForgetAndCell = 2 * kLstmGates, kInputAndCellGate, kOutputAndCell };
enum Table : int32_t { kOfGates, kOfCellGate, kOfCell };

int16_t ClampToInt16(int32_t x) {
  return static_cast<int16_t>(std::clamp<int32_t>(x, INT16_MIN, INT16_MAX));
}

int32_t Dot(const int8_t* x, int32_t zero_point, const int8_t* weights, int32_t count) {
  int32_t sum = 0;
  for (int32_t i = 0; i < count; ++i) sum += (x[i] - zero_point) * weights[i];
  return sum;
}

}  // namespace

LstmLayer::LstmLayer(const TflmZoSimLstmParams& p, const int8_t* weights, const int32_t* bias,
                     const int32_t* rescalings, const int16_t* tables)
    : params_(p),
      weights_(weights, weights + static_cast<size_t>(kLstmGates) * p.units * (p.inputs + p.units)),
      bias_(bias, bias + static_cast<size_t>(kLstmGates) * p.units),
      tables_(tables, tables + static_cast<size_t>(kLstmTables) * kInt16Codes),
      hidden_(static_cast<size_t>(p.units)),
      next_hidden_(static_cast<size_t>(p.units)),
      cell_(static_cast<size_t>(p.units)) {
  for (int32_t i = 0; i < kLstmRescalings; ++i, rescalings += 3) {
    rescalings_.push_back({rescalings[0], rescalings[1], rescalings[2]});
  }
}

int16_t LstmLayer::Gate(int32_t gate, int32_t unit, const int8_t* input) const {
  const TflmZoSimLstmParams& p = params_;
  const int32_t row = gate * p.units + unit;
  const int8_t* weights = weights_.data() + static_cast<int64_t>(row) * (p.inputs + p.units);
  const int32_t sums[2] = {
      bias_[row] + Dot(input, p.input_zero_point, weights, p.inputs),
      Dot(hidden_.data(), p.hidden_zero_point, weights + p.inputs, p.units),
  };
  int32_t total = 0;
  for (int32_t i = 0; i < 2; ++i) {
    const Rescaling& r = rescalings_[2 * gate + i];
    total += ClampToInt16(Rescale(sums[i], r.multiplier, r.left_shift, r.right_shift));
  }
  return Lookup(gate == kCellGate ? kOfCellGate : kOfGates, ClampToInt16(total));
}

int16_t LstmLayer::Product(int32_t rescaling, int16_t first, int16_t second) const {
  const Rescaling& r = rescalings_[rescaling];
  return ClampToInt16(Rescale(first * second, r.multiplier, r.left_shift, r.right_shift));
}

void LstmLayer::Step(const int8_t* input) {
  const TflmZoSimLstmParams& p = params_;
  const Rescaling& to_hidden = rescalings_[kOutputAndCell];
  for (int32_t unit = 0; unit < p.units; ++unit) {
    int16_t& cell = cell_[unit];
    const int16_t kept = Product(kForgetAndCell, Gate(kForgetGate, unit, input), cell);
    const int16_t added =
        Product(kInputAndCellGate, Gate(kInputGate, unit, input), Gate(kCellGate, unit, input));
    cell = ClampToInt16(kept + added);
    if (p.cell_clip > 0) cell = std::clamp<int16_t>(cell, -p.cell_clip, p.cell_clip);
    const int32_t product = Lookup(kOfCell, cell) * Gate(kOutputGate, unit, input);
    const int32_t scaled =
        Rescale(product, to_hidden.multiplier, to_hidden.left_shift, to_hidden.right_shift);
    next_hidden_[unit] = ClampToInt8(scaled + p.hidden_zero_point, -128, 127);
  }
  hidden_.swap(next_hidden_);
}

void LstmLayer::Run(const LayerIo& io) {
  const TflmZoSimLstmParams& p = params_;
  const int8_t* input = io.inputs[0];
  int8_t* output = io.output;
  for (int32_t s = 0; s < io.samples; ++s) {
    std::fill(hidden_.begin(), hidden_.end(), static_cast<int8_t>(p.hidden_zero_point));
    std::fill(cell_.begin(), cell_.end(), static_cast<int16_t>(0));
    for (int32_t step = 0; step < p.steps; ++step, input += p.inputs, output += p.units) {
      Step(input);
      std::copy(hidden_.begin(), hidden_.end(), output);
    }
  }
}

}  // namespace sim
}  // namespace tflm_zo
