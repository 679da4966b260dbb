// SPDX-License-Identifier: Apache-2.0
#include "trainer_status.h"

namespace tflm_zo {

const char* TrainerStatusMessage(TrainerStatus status) {
  switch (status) {
    case TrainerStatus::kOk:
      return "ok";
    case TrainerStatus::kNotPatched:
      return "the model has no training ops: patch it with tflm-zo patch and export it again";
    case TrainerStatus::kOtherVersion:
      return "the model was patched for another version of the ops: patch and export it again";
    case TrainerStatus::kNotStarted:
      return "the model is not running: see the message at start-up";
    case TrainerStatus::kPassFailed:
      return "an op refused the pass: see the message that it printed";
    case TrainerStatus::kNoPass:
      return "no training step is in work: begin a batch first";
    case TrainerStatus::kBadParameter:
      return "no such parameter or node, or sigma, block, rate or size out of range";
    case TrainerStatus::kBadSettings:
      return "training settings out of range";
    case TrainerStatus::kNoReference:
      return "the model has nothing to recalibrate by: patch it with --adapter and --reference, "
             "and export it again";
    case TrainerStatus::kTooFewSamples:
      return "too few samples to recalibrate on: it takes at least 2";
  }
  return "unknown status";
}

}  // namespace tflm_zo
