// SPDX-License-Identifier: Apache-2.0
//
// Values of tensors for a range of passes. Passes for which a tensor has the same values share one
// copy of them, a row, so that layers are computed once for all of these passes.
#ifndef TFLM_ZO_SIM_PASS_VALUES_H_
#define TFLM_ZO_SIM_PASS_VALUES_H_

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "range.h"

namespace tflm_zo {
namespace sim {

// Which row each pass reads. Rows are numbered in the order in which passes first read them.
struct Rows {
  Range passes;
  int32_t count;
  std::vector<int32_t> of_pass;  // [passes.size()]

  int32_t Of(int32_t pass) const { return of_pass[pass - passes.begin]; }
};

using SharedRows = std::shared_ptr<const Rows>;

// One row that all passes share.
SharedRows OneRow(Range passes);

// Splits rows, so that passes share one if they did before and have the same property_of(pass).
template <typename Property>
SharedRows SplitRows(const Rows& rows, const Property& property_of) {
  auto split = std::make_shared<Rows>();
  split->passes = rows.passes;
  std::map<std::pair<int32_t, int32_t>, int32_t> numbers;
  for (int32_t pass = rows.passes.begin; pass < rows.passes.end; ++pass) {
    const auto key = std::make_pair(rows.Of(pass), property_of(pass));
    const auto next = static_cast<int32_t>(numbers.size());
    split->of_pass.push_back(numbers.emplace(key, next).first->second);
  }
  split->count = static_cast<int32_t>(numbers.size());
  return split;
}

// The values of a tensor: [rows][bytes].
struct Values {
  SharedRows rows;
  int64_t bytes;
  std::shared_ptr<int8_t[]> data;

  int8_t* Row(int32_t row) const { return data.get() + row * bytes; }
  int8_t* OfPass(int32_t pass) const { return Row(rows->Of(pass)); }
};

// Memory for the values of a tensor of `bytes` bytes.
Values NewValues(SharedRows rows, int64_t bytes);

// As NewValues; fills each row from source_of(pass), the values for the first pass that reads it.
template <typename Source>
Values GatherValues(SharedRows rows, int64_t bytes, const Source& source_of) {
  Values values = NewValues(std::move(rows), bytes);
  int32_t filled = 0;
  for (int32_t pass = values.rows->passes.begin; filled < values.rows->count; ++pass) {
    if (values.rows->Of(pass) != filled) continue;
    std::memcpy(values.Row(filled), source_of(pass), static_cast<size_t>(bytes));
    ++filled;
  }
  return values;
}

// The tensors, by index, that are computed and still needed at some layer.
using LiveTensors = std::vector<std::pair<int32_t, Values>>;

// The values of a tensor, or nullptr if it is not among the live ones.
Values* Find(LiveTensors* live, int32_t tensor);
const Values* Find(const LiveTensors& live, int32_t tensor);

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_PASS_VALUES_H_
