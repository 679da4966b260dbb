// SPDX-License-Identifier: Apache-2.0
#ifndef TFLM_ZO_MICRO_APP_MEASURED_RUNTIME_H_
#define TFLM_ZO_MICRO_APP_MEASURED_RUNTIME_H_

#include <cstdint>

#include "hal.h"
#include "model_runtime.h"

namespace tflm_zo {

// Counts and times the passes of another engine, and feeds the watchdog before each.
class MeasuredRuntime final : public ModelRuntime {
 public:
  // `runtime` may be nullptr if it is never used. Both must outlive this.
  MeasuredRuntime(ModelRuntime* runtime, Board* board) : runtime_(runtime), board_(board) {}

  TensorMemory Input(int index) override { return runtime_->Input(index); }
  TensorMemory Output(int index) override { return runtime_->Output(index); }
  bool Invoke() override {
    board_->FeedWatchdog();
    const uint32_t start = board_->NowMicros();
    const bool done = runtime_->Invoke();
    pass_micros_ = board_->NowMicros() - start;
    passes_ += 1;
    return done;
  }

  uint32_t passes() const { return passes_; }
  // Of the last pass.
  uint32_t pass_micros() const { return pass_micros_; }

 private:
  ModelRuntime* runtime_;
  Board* board_;
  uint32_t passes_ = 0;
  uint32_t pass_micros_ = 0;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_MEASURED_RUNTIME_H_
