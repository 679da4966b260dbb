// SPDX-License-Identifier: Apache-2.0
//
// The conversation with the host: frames come in, each request is carried out exactly once, and its
// answer goes out.
//
// The host numbers its requests and repeats one until the answer comes. The board carries out the
// next number, repeats its answer to the present one, and refuses all others.
#ifndef TFLM_ZO_MICRO_APP_HOST_SESSION_H_
#define TFLM_ZO_MICRO_APP_HOST_SESSION_H_

#include <cstdint>

#include "framing.h"
#include "hal.h"
#include "messages.h"

namespace tflm_zo {

// What carries out the requests.
class RequestHandler {
 public:
  // Drops what a request of an earlier session has left incomplete.
  virtual void BeginSession() = 0;
  // Adds the fields of the answer to a hello. `continued`: the host is in this session already.
  virtual void AnswerHello(bool continued, AnswerFields* answer) = 0;
  // Carries out a request and fills the answer to it; or begins to, and is in work until then.
  virtual void Execute(Request request, FieldReader fields) = 0;
  virtual bool in_work() const = 0;
  // Adds how far the request in work has come.
  virtual void AnswerInWork(AnswerFields* answer) const = 0;

 protected:
  ~RequestHandler() = default;
};

class HostSession {
 public:
  // `frame`: memory for one received frame. `answer`: the handler's, to the last request that it
  // carried out. All of them must outlive this.
  HostSession(SerialPort* serial, uint8_t* frame, uint32_t frame_bytes, const AnswerFields* answer)
      : serial_(serial), decoder_(frame, frame_bytes), encoder_(serial), answer_(answer) {}

  // Takes what has arrived and has the handler carry it out. False: nothing has arrived.
  bool Receive(RequestHandler* handler);

  // Sends the answer to the request that was in work.
  void SendAnswer() { Send(request_type_, sequence_, *answer_); }

  // Frames since power-on that arrived damaged.
  uint32_t damaged_frames() const { return damaged_frames_; }

 private:
  void Handle(const Frame& frame, RequestHandler* handler);
  void Hello(const Frame& frame, RequestHandler* handler);
  void Accept(const Frame& frame);
  void SendAtOnce(const Frame& frame, AnswerStatus status, const RequestHandler& handler);
  void Send(uint8_t request_type, uint16_t sequence, const AnswerFields& answer);

  SerialPort* serial_;
  FrameDecoder decoder_;
  FrameEncoder encoder_;
  const AnswerFields* answer_;
  uint32_t damaged_frames_ = 0;

  bool open_ = false;
  uint32_t session_ = 0;
  // The request that was carried out last, or is in work.
  uint16_t sequence_ = 0;
  uint8_t request_type_ = 0;
  uint32_t request_crc_ = 0;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_HOST_SESSION_H_
