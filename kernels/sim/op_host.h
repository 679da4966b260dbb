// SPDX-License-Identifier: Apache-2.0
//
// Runs the training ops outside TFLM. They are the ops of the board, called through the ABI that
// TFLM calls them by: nothing of their arithmetic is written a second time, so the simulator cannot
// differ from it.
#ifndef TFLM_ZO_SIM_OP_HOST_H_
#define TFLM_ZO_SIM_OP_HOST_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tflm_adapter.h"

namespace tflm_zo {
namespace sim {

enum class ElementType : int32_t { kInt8 = 0, kInt32 = 1, kFloat32 = 2 };

// A tensor that ops see. `data` may be null if Point sets it before an op reads it.
struct OpTensor {
  ElementType type;
  int32_t elements;
  void* data;
};

class OpHost {
 public:
  explicit OpHost(const std::vector<OpTensor>& tensors);
  OpHost(const OpHost&) = delete;
  OpHost& operator=(const OpHost&) = delete;

  // Initialises and prepares an op; `inputs` and `outputs` are tensor indices, -1 for those left
  // out. Returns its number, or -1 after an error. Throws std::out_of_range for other indices.
  int32_t Add(const Registration& registration, const std::vector<int32_t>& inputs,
              const std::vector<int32_t>& outputs, const void* options, size_t option_bytes);

  // What the op's init returned.
  void* UserData(int32_t op) const { return ops_[op]->node.user_data; }

  void Point(int32_t tensor, void* data) { tensors_[tensor].data = data; }
  void* Data(int32_t tensor) const { return tensors_[tensor].data; }

  // False after an error.
  bool Invoke(int32_t op);

  // What the op that failed reported.
  const std::string& error() const { return error_; }

 private:
  struct Op {
    Registration registration;
    Node node;
    std::vector<int32_t> inputs;  // length first, as TFLM's integer arrays are
    std::vector<int32_t> outputs;
    std::vector<uint32_t> options;
  };
  using Memory = std::unique_ptr<uint64_t[]>;

  static OpHost& Of(const Context* context) { return *static_cast<OpHost*>(context->impl); }
  static void Report(Context* context, const char* format, ...);

  Context context_{};
  std::vector<abi::IntArray> dims_;
  std::vector<EvalTensor> tensors_;
  std::vector<std::unique_ptr<Op>> ops_;
  std::vector<Memory> persistent_;
  std::vector<Memory> scratch_;
  std::string error_;
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_OP_HOST_H_
