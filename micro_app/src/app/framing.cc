// SPDX-License-Identifier: Apache-2.0
#include "framing.h"

#include <cstring>

#include "byte_order.h"
#include "crc32.h"

namespace tflm_zo {

bool FrameEncoder::Begin(uint8_t type, uint16_t sequence, uint32_t payload_size) {
  good_ = true;
  after_longest_run_ = false;
  crc_ = 0;
  missing_ = payload_size;
  // The leading delimiter ends whatever the receiver has before it: noise, or a frame that was
  // given up.
  buffer_[0] = 0;
  block_start_ = 1;
  used_ = 2;
  const FrameHeader header = {kFrameVersion, type, sequence, payload_size};
  uint8_t bytes[kFrameHeaderSize];
  std::memcpy(bytes, &header, sizeof(bytes));
  Put(bytes, sizeof(bytes));
  return good_;
}

bool FrameEncoder::Append(const void* data, uint32_t size) {
  if (size > missing_) good_ = false;
  if (!good_) return false;
  missing_ -= size;
  Put(static_cast<const uint8_t*>(data), size);
  return good_;
}

bool FrameEncoder::End() {
  if (missing_ != 0) good_ = false;
  if (!good_) return false;
  uint8_t crc[kFrameCrcSize];
  StoreLe32(crc, crc_);
  Put(crc, sizeof(crc));
  // A COBS block stands for its bytes followed by a zero; the receiver drops the zero of the last
  // block. A block of the greatest length stands for no zero, so no empty block need follow it.
  if (after_longest_run_ && used_ == block_start_ + 1) {
    used_ = block_start_;
  } else {
    buffer_[block_start_] = static_cast<uint8_t>(used_ - block_start_);
  }
  buffer_[used_++] = 0;
  Flush();
  const bool sent = good_;
  good_ = false;
  return sent;
}

void FrameEncoder::Put(const uint8_t* bytes, uint32_t size) {
  crc_ = Crc32(bytes, size, crc_);
  for (uint32_t i = 0; i < size && good_; ++i) {
    if (bytes[i] == 0) {
      after_longest_run_ = false;
      CloseBlock();
      continue;
    }
    buffer_[used_++] = bytes[i];
    if (used_ - block_start_ == kLongestRun + 1) {
      after_longest_run_ = true;
      CloseBlock();
    }
  }
}

void FrameEncoder::CloseBlock() {
  buffer_[block_start_] = static_cast<uint8_t>(used_ - block_start_);
  // Few larger writes: on USB every write is a packet of its own.
  if (used_ > kFlushThreshold) Flush();
  block_start_ = used_++;
}

void FrameEncoder::Flush() {
  if (!sink_->Write(buffer_, used_)) good_ = false;
  used_ = 0;
}

FrameEvent FrameDecoder::Push(uint8_t byte) {
  if (byte == 0) {
    // Frames are delimited on both sides, so two delimiters in a row are normal.
    const FrameEvent event = started_ ? Finish() : FrameEvent::kNone;
    size_ = 0;
    run_ = 0;
    started_ = false;
    zero_pending_ = false;
    too_long_ = false;
    return event;
  }
  started_ = true;
  if (run_ != 0) {
    --run_;
    Store(byte);
    return FrameEvent::kNone;
  }
  if (zero_pending_) Store(0);
  run_ = static_cast<uint8_t>(byte - 1);
  zero_pending_ = byte != 0xFF;
  return FrameEvent::kNone;
}

void FrameDecoder::Store(uint8_t byte) {
  if (size_ == capacity_) {
    too_long_ = true;
    return;
  }
  buffer_[size_++] = byte;
}

FrameEvent FrameDecoder::Finish() {
  if (too_long_) return FrameEvent::kTooLong;
  if (run_ != 0 || size_ < kFrameOverhead) return FrameEvent::kMalformed;
  const uint32_t checked = size_ - kFrameCrcSize;
  if (Crc32(buffer_, checked) != LoadLe32(buffer_ + checked)) return FrameEvent::kChecksum;
  // Only the place of the version and of the CRC is the same in every version of the protocol.
  FrameHeader header;
  std::memcpy(&header, buffer_, sizeof(header));
  if (header.version != kFrameVersion) return FrameEvent::kVersion;
  if (header.payload_size != size_ - kFrameOverhead) return FrameEvent::kMalformed;
  frame_.type = header.type;
  frame_.sequence = header.sequence;
  frame_.size = header.payload_size;
  frame_.payload = buffer_ + kFrameHeaderSize;
  return FrameEvent::kFrame;
}

}  // namespace tflm_zo
