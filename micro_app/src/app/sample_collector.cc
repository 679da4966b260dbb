// SPDX-License-Identifier: Apache-2.0
#include "sample_collector.h"

#include <cstring>

namespace tflm_zo {

SampleCollector::Result SampleCollector::Collect(Request request, const RecordPiece& piece,
                                                 uint32_t record_bytes) {
  if (piece.offset == 0) {
    request_ = request;
    collected_ = 0;
  }
  uint8_t* record = batch_->next_input();
  if (record == nullptr) {
    answer_->Refuse(AnswerStatus::kBadRequest, "no room for another sample: end the batch first");
    return Result::kRefused;
  }
  if (request != request_ || piece.offset != collected_ || piece.size > record_bytes - collected_ ||
      piece.size == 0) {
    answer_->Refuse(
        AnswerStatus::kBadRequest,
        "the sample has another size than the model's input and label, or its pieces are out of "
        "order");
    return Result::kRefused;
  }
  std::memcpy(record + piece.offset, piece.data, piece.size);
  collected_ += piece.size;
  if (collected_ != record_bytes) return Result::kIncomplete;
  collected_ = 0;
  return Result::kComplete;
}

}  // namespace tflm_zo
