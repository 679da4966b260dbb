// SPDX-License-Identifier: Apache-2.0
//
// What frames carry: requests of the host and the board's answers. docs/protocol.md specifies every
// field.
#ifndef TFLM_ZO_MICRO_APP_MESSAGES_H_
#define TFLM_ZO_MICRO_APP_MESSAGES_H_

#include <cstdint>
#include <cstring>

#include "message_layouts.h"

namespace tflm_zo {

// Of the payloads; the frame layer has a version of its own.
constexpr uint16_t kMessageVersion = 3;

enum class Request : uint8_t {
  kHello = 0x01,
  kParameter = 0x02,
  kMetrics = 0x03,
  kReadModel = 0x04,
  kInfer = 0x10,
  kEvaluate = 0x11,
  kTrain = 0x12,
  kBeginBatch = 0x13,
  kSample = 0x14,
  kEndBatch = 0x15,
  kFinish = 0x16,
  kBeginObservation = 0x17,
  kObserve = 0x18,
  kRecalibrate = 0x19,
  kSetSchedule = 0x20,
  kSetParameter = 0x21,
  kSetNode = 0x22,
  kCheckpoint = 0x30,
  kRestore = 0x31,
  kFactoryReset = 0x32,
  kReadWeights = 0x33,
  kWriteWeights = 0x34,
};

// The type of an answer is that of its request with this bit set.
constexpr uint8_t kAnswerBit = 0x80;

// First byte of every answer. After kOk come the fields of the answer, after kInWork those of a
// progress report, otherwise one line of text for a user.
enum class AnswerStatus : uint8_t {
  kOk = 0,
  kInWork = 1,  // the answer will come; until then this is what a repeated request gets
  kUnknownRequest = 2,
  kBadRequest = 3,     // sizes or values that the board cannot use
  kNoSession = 4,      // say hello first; the board has started anew since the last one
  kOutOfSequence = 5,  // neither the next request nor a repeat of the last one
  kModel = 6,          // the model does not run, or refused a pass
  kStorage = 7,        // flash, or what is in it
};

// Takes a payload apart. After a message that is not there in whole, all others are 0 and good() is
// false.
class FieldReader {
 public:
  FieldReader(const uint8_t* data, uint32_t size) : at_(data), left_(size) {}

  // The next message of the payload, a struct of message_layouts.h.
  template <typename Message>
  Message Take() {
    Message message{};
    if (!good_ || sizeof(message) > left_) {
      good_ = false;
      return message;
    }
    std::memcpy(&message, at_, sizeof(message));
    at_ += sizeof(message);
    left_ -= sizeof(message);
    return message;
  }

  const uint8_t* rest() const { return at_; }
  uint32_t left() const { return left_; }
  bool good() const { return good_; }
  bool complete() const { return good_ && left_ == 0; }

 private:
  const uint8_t* at_;
  uint32_t left_;
  bool good_ = true;
};

// The payload of an answer: its status, a message, then bytes that stay where they are. Kept until
// the next request, for the case that the host asks again.
class AnswerFields {
 public:
  static constexpr uint32_t kCapacity = 1 + sizeof(HelloAnswer);  // the longest one

  void Start(AnswerStatus status) {
    data_[0] = static_cast<uint8_t>(status);
    size_ = 1;
    tail_ = nullptr;
    tail_size_ = 0;
  }
  // A struct of message_layouts.h, the only one of the answer.
  template <typename Message>
  AnswerFields& Set(const Message& message) {
    static_assert(sizeof(message) < kCapacity, "there is a longer one now");
    std::memcpy(data_ + 1, &message, sizeof(message));
    size_ = 1 + sizeof(message);
    return *this;
  }
  // `data` must not change until the next request is carried out.
  AnswerFields& Tail(const void* data, uint32_t size) {
    tail_ = data;
    tail_size_ = size;
    return *this;
  }
  AnswerFields& Text(const char* text) {
    return Tail(text, static_cast<uint32_t>(std::strlen(text)));
  }

  const uint8_t* data() const { return data_; }
  uint32_t size() const { return size_; }
  const void* tail() const { return tail_; }
  uint32_t tail_size() const { return tail_size_; }

 private:
  uint8_t data_[kCapacity] = {};
  uint32_t size_ = 0;
  const void* tail_ = nullptr;
  uint32_t tail_size_ = 0;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_MESSAGES_H_
