// SPDX-License-Identifier: Apache-2.0
//
// What the app needs from a board. A port implements these interfaces; everything above them runs
// unchanged on a board, in an emulator and on a host. Nothing here is called from an interrupt.
#ifndef TFLM_ZO_MICRO_APP_HAL_H_
#define TFLM_ZO_MICRO_APP_HAL_H_

#include <cstdint>

namespace tflm_zo {

// The destructors are protected: nobody deletes a port through its interface, and no `delete` is
// linked in.

class ByteSink {
 public:
  // Takes all `size` bytes, waiting for room as long as the port thinks right. False: the bytes are
  // lost in part or in whole (nobody listens).
  virtual bool Write(const uint8_t* data, uint32_t size) = 0;

 protected:
  ~ByteSink() = default;
};

class SerialPort : public ByteSink {
 public:
  // Copies up to `capacity` bytes that have arrived to `data`; returns how many, 0 at once if there
  // are none.
  virtual uint32_t Read(uint8_t* data, uint32_t capacity) = 0;

 protected:
  ~SerialPort() = default;
};

// An area of NOR flash; addresses are bytes from its start. An erase sets every bit of a page, a
// write clears bits.
//
// nRF52840: pages of 4096 bytes, written in words of 4 bytes, 10,000 erase cycles a page, a word
// written at most twice between erases; about 85 ms for a page erase and 41 us for a word, during
// which the CPU stands still.
class Flash {
 public:
  virtual uint32_t size() const = 0;       // bytes, whole pages
  virtual uint32_t page_size() const = 0;  // bytes, what one erase covers
  virtual uint32_t write_granularity()
      const = 0;  // bytes; addresses and sizes of writes are multiples of it

  // Each returns once the operation is finished, false if it failed. A port with a watchdog feeds
  // it in ErasePage and Write: only the port knows how long they take. `address` of ErasePage is
  // the start of a page; one Write stays within a page and goes to granules that were erased and
  // not written since.
  virtual bool ErasePage(uint32_t address) = 0;
  virtual bool Write(uint32_t address, const void* data, uint32_t size) = 0;

  // False only if the flash does not answer. Damaged content (a write or an erase cut short) is no
  // failure: it reads as some bytes, and checksums above tell.
  virtual bool Read(uint32_t address, void* data, uint32_t size) const = 0;

 protected:
  ~Flash() = default;
};

enum class LedState : uint8_t {
  kIdle,       // waiting for the host
  kInferring,  // running the model on a sample
  kTraining,   // inside a training step
  kSaving,     // writing flash: keep the power on if you can
  kError,      // the last request failed
};

class Board {
 public:
  virtual SerialPort& serial() = 0;
  virtual Flash& flash() = 0;  // the area for checkpoints

  // Time in microseconds from an arbitrary start. Wraps after 71.6 minutes: subtract as uint32_t.
  virtual uint32_t NowMicros() = 0;

  virtual void SetLed(LedState state) = 0;

  // Called between any two forward passes at the latest.
  virtual void FeedWatchdog() = 0;

 protected:
  ~Board() = default;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_HAL_H_
