// SPDX-License-Identifier: Apache-2.0
//
// The answer to the request that is carried out: its fields, or why it is refused.
#ifndef TFLM_ZO_MICRO_APP_REQUEST_ANSWER_H_
#define TFLM_ZO_MICRO_APP_REQUEST_ANSWER_H_

#include "checkpoint.h"
#include "hal.h"
#include "messages.h"
#include "trainer_status.h"

namespace tflm_zo {

class RequestAnswer {
 public:
  explicit RequestAnswer(Board* board) : board_(board) {}

  AnswerFields& fields() { return fields_; }
  const AnswerFields& fields() const { return fields_; }

  // Drops what is in the answer, and shows the error on the board's LED.
  void Refuse(AnswerStatus status, const char* text);
  void RefuseValues() { Refuse(AnswerStatus::kBadRequest, "a value is out of range"); }

  // True if all is well; else the request is refused with the status' message.
  bool Check(TrainerStatus status);
  bool Check(CheckpointStatus status);

 private:
  Board* board_;
  AnswerFields fields_;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_REQUEST_ANSWER_H_
