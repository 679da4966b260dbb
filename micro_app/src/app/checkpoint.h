// SPDX-License-Identifier: Apache-2.0
//
// Checkpoints in flash that survive a power cut at any moment.
//
// The flash area is split into two slots that are used in turn. A save erases the slot that does
// not hold the newest checkpoint, writes the payload, reads it back, and writes the header last,
// with the CRC over header and payload as its last word: that word makes the checkpoint exist.
// Whenever the power goes, the other slot is whole.
//
// Slot: magic u32 | sequence u32 | model hash u64 | payload size u32 | 8 bytes of ones | CRC-32 |
// payload
//       (little-endian, 32 bytes of header; the payload is what the caller's memory holds)
//
// Wear: a save erases each page that it needs once, in one of the two slots. With 10,000 erase
// cycles a page (nRF52840) that is 20,000 saves: one every hour for more than two years, one every
// ten minutes for 138 days.
#ifndef TFLM_ZO_MICRO_APP_CHECKPOINT_H_
#define TFLM_ZO_MICRO_APP_CHECKPOINT_H_

#include <cstdint>

#include "hal.h"

namespace tflm_zo {

constexpr uint32_t kCheckpointHeaderSize = 32;

enum class CheckpointStatus : uint8_t {
  kOk,
  kNone,          // no valid checkpoint in either slot
  kOtherModel,    // the newest one belongs to another model
  kOtherSize,     // the newest one belongs to this model, but its payload has another size
  kTooLarge,      // the payload does not fit into a slot
  kBadGeometry,   // page size or write granularity that this store cannot use
  kFlashFailure,  // the flash refused an operation, or does not hold what was written
};

// One line for a user: what is the case, and what to do about it.
const char* CheckpointStatusMessage(CheckpointStatus status);

struct CheckpointInfo {
  uint32_t sequence;  // 1 for the first save, then one more for each
  uint64_t model_hash;
  uint32_t payload_size;  // bytes
};

// A payload is a list of pieces of memory, so that weights are saved from and restored to where
// they are used.
struct ConstSegment {
  const void* data;
  uint32_t size;  // bytes
};

struct Segment {
  void* data;
  uint32_t size;  // bytes
};

// Keeps no state beside the flash: every call looks at both slots, so nothing can be out of date
// after a failure.
class CheckpointStore {
 public:
  // The store has `flash` to itself. Pages must be multiples of 64 bytes, a granule at most 32.
  explicit CheckpointStore(Flash* flash);

  // Greatest payload in bytes; 0 if the flash cannot be used.
  uint32_t capacity() const { return slot_size_ == 0 ? 0 : slot_size_ - kCheckpointHeaderSize; }

  // Describes the newest valid checkpoint, of whatever model. kOk, kNone, kBadGeometry,
  // kFlashFailure.
  CheckpointStatus Newest(CheckpointInfo* info) const;

  // Saves the segments one after the other. They must not change meanwhile. kOk only if the flash
  // was read back and holds them; otherwise the checkpoint that was the newest still is.
  CheckpointStatus Save(uint64_t model_hash, const ConstSegment* segments, uint32_t count);

  // Copies the newest checkpoint to the segments, if it is of this model and of their total size.
  // Checks all of it before the first byte is copied. kFlashFailure after the first copied byte can
  // only mean that the flash reads differently from one moment to the next; memory is then not to
  // be used.
  CheckpointStatus Load(uint64_t model_hash, const Segment* segments, uint32_t count) const;

  // Removes both checkpoints, the newest last: after a power cut there is the newest or none, never
  // the older one.
  CheckpointStatus Clear();

 private:
  struct Slots {
    int newest;  // 0, 1, or -1: no valid checkpoint
    CheckpointInfo info;
  };

  CheckpointStatus Scan(Slots* slots) const;
  CheckpointStatus ReadSlot(uint32_t slot, bool* valid, CheckpointInfo* info) const;
  bool PayloadCrc(uint32_t slot, uint32_t size, uint32_t* crc) const;
  bool WritePayload(uint32_t slot, const ConstSegment* segments, uint32_t count);

  Flash* flash_;
  uint32_t slot_size_ = 0;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_CHECKPOINT_H_
