// SPDX-License-Identifier: Apache-2.0
#ifndef TFLM_ZO_SIM_RANGE_H_
#define TFLM_ZO_SIM_RANGE_H_

#include <cstdint>

namespace tflm_zo {
namespace sim {

// Indices begin, begin + 1, ..., end - 1.
struct Range {
  int32_t begin;
  int32_t end;

  bool Contains(int32_t index) const { return index >= begin && index < end; }
  int32_t size() const { return end - begin; }
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_RANGE_H_
