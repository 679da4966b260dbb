// SPDX-License-Identifier: Apache-2.0
#include "training_ops.h"

#include <cstring>
#include <stdexcept>

namespace tflm_zo {
namespace sim {

void TrainingOps::Invoke(int32_t op) {
  if (!host_->Invoke(op)) throw std::runtime_error(host_->error());
}

void TrainingOps::RunParameterOp(const Command& command) {
  std::memcpy(host_->Data(ends_.command), &command, sizeof(command));
  Invoke(ends_.parameter_op);
}

void TrainingOps::RunLossOp(const uint8_t* target, int64_t target_bytes) {
  std::memcpy(host_->Data(ends_.target), target, static_cast<size_t>(target_bytes));
  Invoke(ends_.loss_op);
}

Report TrainingOps::report() const {
  Report report;
  std::memcpy(&report, host_->Data(ends_.report), sizeof(report));
  return report;
}

}  // namespace sim
}  // namespace tflm_zo
