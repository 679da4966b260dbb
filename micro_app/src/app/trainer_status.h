// SPDX-License-Identifier: Apache-2.0
#ifndef TFLM_ZO_MICRO_APP_TRAINER_STATUS_H_
#define TFLM_ZO_MICRO_APP_TRAINER_STATUS_H_

#include <cstdint>

namespace tflm_zo {

// How a call of OnDeviceTrainer ended.
enum class TrainerStatus : uint8_t {
  kOk,
  kNotPatched,     // the model's tensors are not those of a patched model
  kOtherVersion,   // its ops left no report: model and ops are of different versions
  kNotStarted,     // Start() has not succeeded yet
  kPassFailed,     // an op refused the pass; TFLM has printed why
  kNoPass,         // RunPass() without a NextPass() that returned true
  kBadParameter,   // no such parameter or node, or a value out of range
  kBadSettings,    // schedule or step settings out of range
  kNoReference,    // nothing to recalibrate by
  kTooFewSamples,  // to recalibrate on
};

// One line for a user: what is wrong, and what to do about it.
const char* TrainerStatusMessage(TrainerStatus status);

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_TRAINER_STATUS_H_
