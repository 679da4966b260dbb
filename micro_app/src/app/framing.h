// SPDX-License-Identifier: Apache-2.0
//
// Frames on a serial line that loses, repeats and changes bytes: either a frame arrives as it was
// sent, or it does not arrive. docs/protocol.md is the specification; tflm_zo/serial/framing.py is
// the same in Python.
//
// On the line:  0x00  COBS(header | payload | CRC-32)  0x00
// Header:       FrameHeader, little-endian
//
// COBS (Cheshire and Baker, "Consistent Overhead Byte Stuffing", IEEE/ACM Trans. Networking 7(2),
// 1999) takes all zero bytes out of a frame, so that a zero is always an end: a receiver is back in
// step at the next one.
#ifndef TFLM_ZO_MICRO_APP_FRAMING_H_
#define TFLM_ZO_MICRO_APP_FRAMING_H_

#include <cstdint>

#include "byte_order.h"
#include "hal.h"

namespace tflm_zo {

constexpr uint8_t kFrameVersion = 1;

// As on the line.
struct FrameHeader {
  uint8_t version;
  uint8_t type;
  uint16_t sequence;
  uint32_t payload_size;
};
constexpr uint32_t kFrameHeaderSize = sizeof(FrameHeader);
constexpr uint32_t kFrameCrcSize = 4;
constexpr uint32_t kFrameOverhead = kFrameHeaderSize + kFrameCrcSize;  // around the payload
// Bytes other than zero that one COBS code byte can announce.
constexpr uint32_t kLongestRun = 254;

// Upper bound of what a frame with `payload_size` bytes takes on the line, both delimiters
// included.
constexpr uint32_t MaxFrameSizeOnLine(uint32_t payload_size) {
  return payload_size + kFrameOverhead + (payload_size + kFrameOverhead) / kLongestRun + 3;
}

// Sends frames piece by piece, so that a payload needs no buffer and may be scattered in memory.
//
// Begin, Append until the announced size is reached, End. Each returns false if the sink failed or
// the sizes do not add up; the receiver then drops what was sent of the frame, and the next Begin
// starts afresh.
class FrameEncoder {
 public:
  explicit FrameEncoder(ByteSink* sink) : sink_(sink) {}

  bool Begin(uint8_t type, uint16_t sequence, uint32_t payload_size);
  bool Append(const void* data, uint32_t size);
  bool End();

 private:
  static constexpr uint32_t kFlushThreshold = 64;

  void Put(const uint8_t* bytes, uint32_t size);
  void CloseBlock();
  void Flush();

  ByteSink* sink_;
  bool good_ = false;  // in a frame, and nothing has failed
  bool after_longest_run_ = false;
  uint32_t crc_ = 0;
  uint32_t missing_ = 0;      // payload bytes still to come
  uint32_t block_start_ = 0;  // where the code byte of the open block goes
  uint32_t used_ = 0;
  // Closed blocks up to the threshold, one open block with its code byte, and the delimiter.
  uint8_t buffer_[kFlushThreshold + 1 + kLongestRun + 1];
};

struct Frame {
  uint8_t type;
  uint16_t sequence;
  uint32_t size;           // bytes of payload
  const uint8_t* payload;  // eight bytes into the decoder's buffer
};

enum class FrameEvent : uint8_t {
  kNone,       // nothing to report yet
  kFrame,      // a frame is complete and intact: see frame()
  kMalformed,  // dropped: cut short, or sizes that do not fit together
  kTooLong,    // dropped: does not fit into the buffer
  kChecksum,   // dropped: damaged
  kVersion,    // dropped: intact, but of another protocol version; the programs do not belong
               // together
};

// Takes a line apart byte by byte, in constant time for every byte but the last of a frame, and in
// the memory of `buffer`. Frames with up to capacity - kFrameOverhead bytes of payload can be
// received. A payload starts eight bytes into the buffer: align the buffer as the payload is to be
// aligned.
class FrameDecoder {
 public:
  FrameDecoder(uint8_t* buffer, uint32_t capacity) : buffer_(buffer), capacity_(capacity) {}

  FrameEvent Push(uint8_t byte);

  // The frame that Push just reported; valid until the next Push.
  const Frame& frame() const { return frame_; }

 private:
  void Store(uint8_t byte);
  FrameEvent Finish();

  uint8_t* buffer_;
  uint32_t capacity_;
  uint32_t size_ = 0;     // bytes decoded since the last delimiter
  uint8_t run_ = 0;       // bytes left in the current COBS block
  bool started_ = false;  // some byte has come since the last delimiter
  bool zero_pending_ =
      false;  // the block that just ended stands for a zero, unless it was the last one
  bool too_long_ = false;
  Frame frame_ = {};
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_FRAMING_H_
