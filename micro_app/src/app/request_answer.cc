// SPDX-License-Identifier: Apache-2.0
#include "request_answer.h"

namespace tflm_zo {

void RequestAnswer::Refuse(AnswerStatus status, const char* text) {
  fields_.Start(status);
  fields_.Text(text);
  board_->SetLed(LedState::kError);
}

bool RequestAnswer::Check(TrainerStatus status) {
  if (status == TrainerStatus::kOk) return true;
  const bool values =
      status == TrainerStatus::kBadParameter || status == TrainerStatus::kBadSettings ||
      status == TrainerStatus::kNoReference || status == TrainerStatus::kTooFewSamples;
  Refuse(values ? AnswerStatus::kBadRequest : AnswerStatus::kModel, TrainerStatusMessage(status));
  return false;
}

bool RequestAnswer::Check(CheckpointStatus status) {
  if (status == CheckpointStatus::kOk) return true;
  Refuse(AnswerStatus::kStorage, CheckpointStatusMessage(status));
  return false;
}

}  // namespace tflm_zo
