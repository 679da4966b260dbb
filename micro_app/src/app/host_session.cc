// SPDX-License-Identifier: Apache-2.0
#include "host_session.h"

#include "crc32.h"

namespace tflm_zo {
namespace {

constexpr uint32_t kReadChunk = 64;

}  // namespace

bool HostSession::Receive(RequestHandler* handler) {
  uint8_t bytes[kReadChunk];
  const uint32_t count = serial_->Read(bytes, sizeof(bytes));
  for (uint32_t i = 0; i < count; ++i) {
    const FrameEvent event = decoder_.Push(bytes[i]);
    if (event == FrameEvent::kFrame) {
      Handle(decoder_.frame(), handler);
    } else if (event != FrameEvent::kNone) {
      damaged_frames_ += 1;
    }
  }
  return count != 0;
}

void HostSession::Handle(const Frame& frame, RequestHandler* handler) {
  if ((frame.type & kAnswerBit) != 0) return;  // an answer of this board, echoed by the line
  if (frame.type == static_cast<uint8_t>(Request::kHello)) {
    Hello(frame, handler);
    return;
  }
  if (!open_) {
    SendAtOnce(frame, AnswerStatus::kNoSession, *handler);
    return;
  }
  const bool again = frame.sequence == sequence_ && frame.type == request_type_ &&
                     Crc32(frame.payload, frame.size) == request_crc_;
  if (again && !handler->in_work()) {
    SendAnswer();
  } else if (again) {
    SendAtOnce(frame, AnswerStatus::kInWork, *handler);
  } else if (handler->in_work() || frame.sequence != static_cast<uint16_t>(sequence_ + 1)) {
    SendAtOnce(frame, AnswerStatus::kOutOfSequence, *handler);
  } else {
    Accept(frame);
    handler->Execute(static_cast<Request>(frame.type), FieldReader(frame.payload, frame.size));
    if (!handler->in_work()) SendAnswer();
  }
}

// Opens a session. A hello of the session that is open already changes nothing: its numbers go on.
void HostSession::Hello(const Frame& frame, RequestHandler* handler) {
  FieldReader fields(frame.payload, frame.size);
  const uint32_t session = fields.Take<HelloRequest>().session;
  if (!fields.complete()) return;  // not a hello of this protocol, so its sender expects no answer
  const bool continued = open_ && session == session_;
  if (!continued && handler->in_work()) {
    SendAtOnce(frame, AnswerStatus::kInWork, *handler);
    return;
  }
  if (!continued) {
    open_ = true;
    session_ = session;
    Accept(frame);
    handler->BeginSession();
  }
  AnswerFields answer;
  answer.Start(AnswerStatus::kOk);
  handler->AnswerHello(continued, &answer);
  Send(frame.type, frame.sequence, answer);
}

void HostSession::Accept(const Frame& frame) {
  sequence_ = frame.sequence;
  request_type_ = frame.type;
  request_crc_ = Crc32(frame.payload, frame.size);
}

// Answers a frame of which nothing is carried out, so that this answer is never repeated.
void HostSession::SendAtOnce(const Frame& frame, AnswerStatus status,
                             const RequestHandler& handler) {
  AnswerFields answer;
  answer.Start(status);
  if (status == AnswerStatus::kInWork) {
    handler.AnswerInWork(&answer);
  } else if (status == AnswerStatus::kNoSession) {
    answer.Text("the board has started anew: say hello first");
  } else {
    answer.Text("this request is neither the next one nor a repeat of the last one");
  }
  Send(frame.type, frame.sequence, answer);
}

// It does not matter if the answer gets lost: the host repeats its request.
void HostSession::Send(uint8_t request_type, uint16_t sequence, const AnswerFields& answer) {
  const auto type = static_cast<uint8_t>(request_type | kAnswerBit);
  encoder_.Begin(type, sequence, answer.size() + answer.tail_size());
  encoder_.Append(answer.data(), answer.size());
  encoder_.Append(answer.tail(), answer.tail_size());
  encoder_.End();
}

}  // namespace tflm_zo
