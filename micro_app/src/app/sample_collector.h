// SPDX-License-Identifier: Apache-2.0
//
// Puts samples together that are longer than a frame and so arrive in pieces.
#ifndef TFLM_ZO_MICRO_APP_SAMPLE_COLLECTOR_H_
#define TFLM_ZO_MICRO_APP_SAMPLE_COLLECTOR_H_

#include <cstdint>

#include "messages.h"
#include "request_answer.h"
#include "sample_batch.h"

namespace tflm_zo {

// A part of a record: an input and, by the kind of request, its target.
struct RecordPiece {
  uint32_t offset;  // in the record
  const uint8_t* data;
  uint32_t size;
};

// The last fields of a request that brings a piece: its offset and its bytes.
inline RecordPiece ReadPiece(FieldReader* fields) {
  const auto request = fields->Take<PieceRequest>();
  return {request.offset, fields->rest(), fields->left()};
}

class SampleCollector {
 public:
  enum class Result : uint8_t { kRefused, kIncomplete, kComplete };

  // Records are put where the next sample of `batch` goes. Both must outlive this.
  SampleCollector(SampleBatch* batch, RequestAnswer* answer) : batch_(batch), answer_(answer) {}

  // Drops an incomplete record.
  void Reset() { collected_ = 0; }
  bool incomplete() const { return collected_ != 0; }

  // Adds a piece of a record of `record_bytes` bytes. Pieces come in order and with the same kind
  // of request; one at offset 0 begins anew.
  Result Collect(Request request, const RecordPiece& piece, uint32_t record_bytes);

 private:
  SampleBatch* batch_;
  RequestAnswer* answer_;
  Request request_ = Request::kHello;
  uint32_t collected_ = 0;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_SAMPLE_COLLECTOR_H_
