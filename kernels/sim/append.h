// SPDX-License-Identifier: Apache-2.0
//
// What the functions of the C interface that append layers have in common.
#ifndef TFLM_ZO_SIM_APPEND_H_
#define TFLM_ZO_SIM_APPEND_H_

#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "graph.h"
#include "operand.h"
#include "sim_api.h"
#include "sim_handle.h"

namespace tflm_zo {
namespace sim {

inline int32_t Fail(TflmZoSim* sim, std::string message) {
  sim->error = std::move(message);
  return 1;
}

// Calls `make` for the new layer and appends it; what the standard library throws, for lack of
// memory, must not cross the C interface.
template <class Make>
int32_t Append(TflmZoSim* sim, std::vector<int32_t> inputs, int32_t output, const Make& make) {
  try {
    sim->error.clear();
    if (sim->graph.finished()) return Fail(sim, "a layer was added after finish");
    std::vector<int32_t> tensors = inputs;
    tensors.push_back(output);
    for (int32_t tensor : tensors) {
      if (!sim->graph.IsTensor(tensor)) {
        return Fail(sim, "tensor " + std::to_string(tensor) + " does not exist or has no data");
      }
    }
    sim->graph.Add(make(), std::move(inputs), output);
    return 0;
  } catch (const std::exception& exception) {
    return Fail(sim, exception.what());
  }
}

// Element numbers of `places`, checked against the `bytes` of the tensor that they are in; `least`
// is the smallest number allowed.
inline std::vector<int32_t> Places(const int32_t* places, int64_t count, int32_t least,
                                   int64_t bytes) {
  std::vector<int32_t> result(places, places + count);
  for (int32_t place : result) {
    if (place < least || place >= bytes) throw std::out_of_range("an element is out of range");
  }
  return result;
}

inline Operand MakeOperand(const Graph& graph, const TflmZoSimOperand& operand, int32_t input,
                           int64_t elements) {
  Operand made{operand.tensor < 0 ? -1 : input, 0, {}, {}};
  if (operand.tensor >= 0) {
    made.bytes = graph.TensorBytes(operand.tensor);
    if (operand.places != nullptr) made.places = Places(operand.places, elements, 0, made.bytes);
    return made;
  }
  for (int64_t i = 0; i < elements; ++i) {
    made.constant.push_back(operand.constant[operand.places == nullptr ? i : operand.places[i]]);
  }
  return made;
}

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_APPEND_H_
