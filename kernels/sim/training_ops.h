// SPDX-License-Identifier: Apache-2.0
//
// The training ops of one patched model, called one by one.
#ifndef TFLM_ZO_SIM_TRAINING_OPS_H_
#define TFLM_ZO_SIM_TRAINING_OPS_H_

#include <cstdint>

#include "op_host.h"
#include "parameter_state.h"
#include "session.h"

namespace tflm_zo {
namespace sim {

// The tensors and ops that a pass goes through besides layers and node ops.
struct TrainingEnds {
  int32_t command;
  int32_t target;
  int32_t report;
  int32_t input;
  int32_t logits;
  int32_t features;  // the head's input, -1 without a head
  int32_t output;
  int32_t parameter_op;
  int32_t loss_op;
};

class TrainingOps {
 public:
  // `host` must outlive this, and hold the ops and tensors of `ends`.
  TrainingOps(OpHost* host, const TrainingEnds& ends) : host_(host), ends_(ends) {}

  // State of the parameter op.
  const ParameterState& state() const {
    return *static_cast<const ParameterState*>(host_->UserData(ends_.parameter_op));
  }

  // Where the ops find the values of a tensor from now on.
  void Point(int32_t tensor, int8_t* data) { host_->Point(tensor, data); }

  // These throw std::runtime_error with what an op reported.
  void RunParameterOp(const Command& command);
  void RunNodeOp(int32_t op) { Invoke(op); }
  // `target`: as many bytes as the target tensor has.
  void RunLossOp(const uint8_t* target, int64_t target_bytes);

  // What the loss op, and closed forms behind it, have reported of the last pass.
  Report report() const;

 private:
  void Invoke(int32_t op);

  OpHost* host_;
  TrainingEnds ends_;
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_TRAINING_OPS_H_
