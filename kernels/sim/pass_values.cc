// SPDX-License-Identifier: Apache-2.0
#include "pass_values.h"

namespace tflm_zo {
namespace sim {

SharedRows OneRow(Range passes) {
  return std::make_shared<Rows>(
      Rows{passes, 1, std::vector<int32_t>(static_cast<size_t>(passes.size()), 0)});
}

Values NewValues(SharedRows rows, int64_t bytes) {
  const auto size = static_cast<size_t>(rows->count * bytes);
  return {std::move(rows), bytes, std::shared_ptr<int8_t[]>(new int8_t[size])};
}

const Values* Find(const LiveTensors& live, int32_t tensor) {
  for (const auto& entry : live) {
    if (entry.first == tensor) return &entry.second;
  }
  return nullptr;
}

Values* Find(LiveTensors* live, int32_t tensor) { return const_cast<Values*>(Find(*live, tensor)); }

}  // namespace sim
}  // namespace tflm_zo
