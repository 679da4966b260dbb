// SPDX-License-Identifier: Apache-2.0
#include "checkpoint.h"

#include <cstring>

#include "byte_order.h"
#include "crc32.h"

namespace tflm_zo {
namespace {

constexpr uint32_t kMagic =
    0x31435A54u;                 // "TZC1" in memory; the digit is the version of the layout
constexpr uint32_t kChunk = 64;  // bytes read or written at a time, on the stack

// Bytes of the header; the CRC covers all before it and then the payload.
constexpr uint32_t kMagicAt = 0;
constexpr uint32_t kSequenceAt = 4;
constexpr uint32_t kModelHashAt = 8;
constexpr uint32_t kPayloadSizeAt = 16;
constexpr uint32_t kCrcAt = kCheckpointHeaderSize - 4;

constexpr uint32_t Min(uint32_t a, uint32_t b) { return a < b ? a : b; }

// Sum of the sizes; false if it exceeds `limit`.
template <typename AnySegment>
bool TotalSize(const AnySegment* segments, uint32_t count, uint32_t limit, uint32_t* total) {
  *total = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (segments[i].size > limit - *total) return false;
    *total += segments[i].size;
  }
  return true;
}

}  // namespace

const char* CheckpointStatusMessage(CheckpointStatus status) {
  switch (status) {
    case CheckpointStatus::kOk:
      return "ok";
    case CheckpointStatus::kNone:
      return "no checkpoint saved yet: the factory weights are in use";
    case CheckpointStatus::kOtherModel:
      return "the checkpoint belongs to another model: the factory weights are in use; save to "
             "replace it";
    case CheckpointStatus::kOtherSize:
      return "the checkpoint has other trainable weights: the factory weights are in use; save to "
             "replace it";
    case CheckpointStatus::kTooLarge:
      return "the weights do not fit into a checkpoint slot: enlarge the flash area or freeze "
             "layers";
    case CheckpointStatus::kBadGeometry:
      return "this flash cannot hold checkpoints: it needs two pages of a multiple of 64 bytes and "
             "granules of at "
             "most 32 bytes that divide 32";
    case CheckpointStatus::kFlashFailure:
      return "the flash failed: the last completed checkpoint is kept; check the supply and the "
             "erase cycles";
  }
  return "unknown checkpoint status";
}

CheckpointStore::CheckpointStore(Flash* flash) : flash_(flash) {
  const uint32_t page = flash->page_size();
  const uint32_t granule = flash->write_granularity();
  if (page == 0 || page % kChunk != 0) return;
  if (granule == 0 || kCheckpointHeaderSize % granule != 0) return;
  slot_size_ = flash->size() / page / 2 * page;
}

CheckpointStatus CheckpointStore::Newest(CheckpointInfo* info) const {
  Slots slots;
  const CheckpointStatus status = Scan(&slots);
  if (status != CheckpointStatus::kOk) return status;
  if (slots.newest < 0) return CheckpointStatus::kNone;
  *info = slots.info;
  return CheckpointStatus::kOk;
}

CheckpointStatus CheckpointStore::Save(uint64_t model_hash, const ConstSegment* segments,
                                       uint32_t count) {
  Slots slots;
  const CheckpointStatus status = Scan(&slots);
  if (status != CheckpointStatus::kOk) return status;
  uint32_t size;
  if (!TotalSize(segments, count, capacity(), &size)) return CheckpointStatus::kTooLarge;

  uint8_t header[kCheckpointHeaderSize];
  std::memset(header, 0xFF, sizeof(header));
  StoreLe32(header + kMagicAt, kMagic);
  // Cannot wrap: flash is worn out long before 2^32 saves.
  StoreLe32(header + kSequenceAt, slots.newest < 0 ? 1 : slots.info.sequence + 1);
  StoreLe64(header + kModelHashAt, model_hash);
  StoreLe32(header + kPayloadSizeAt, size);
  uint32_t payload_crc = Crc32(header, kCrcAt);
  for (uint32_t i = 0; i < count; ++i) {
    payload_crc = Crc32(segments[i].data, segments[i].size, payload_crc);
  }
  StoreLe32(header + kCrcAt, payload_crc);

  const uint32_t slot = slots.newest == 0 ? 1 : 0;
  const uint32_t start = slot * slot_size_;
  // Always erased anew, even where it reads as erased: after an erase cut short by a power loss,
  // cells may read as ones without holding their charge for long.
  const uint32_t page = flash_->page_size();
  for (uint32_t offset = 0; offset < kCheckpointHeaderSize + size; offset += page) {
    if (!flash_->ErasePage(start + offset)) return CheckpointStatus::kFlashFailure;
  }
  if (!WritePayload(slot, segments, count)) return CheckpointStatus::kFlashFailure;

  // A payload that did not get there must not be given a header.
  uint32_t crc_in_flash = Crc32(header, kCrcAt);
  if (!PayloadCrc(slot, size, &crc_in_flash) || crc_in_flash != payload_crc) {
    return CheckpointStatus::kFlashFailure;
  }

  // The granule with the CRC goes last, in a write of its own.
  const uint32_t granule = flash_->write_granularity();
  const uint32_t last = kCheckpointHeaderSize - (granule < 4 ? 4 : granule);
  if (last != 0 && !flash_->Write(start, header, last)) return CheckpointStatus::kFlashFailure;
  if (!flash_->Write(start + last, header + last, kCheckpointHeaderSize - last)) {
    return CheckpointStatus::kFlashFailure;
  }
  uint8_t written[kCheckpointHeaderSize];
  if (!flash_->Read(start, written, sizeof(written)) ||
      std::memcmp(written, header, sizeof(written)) != 0) {
    return CheckpointStatus::kFlashFailure;
  }
  return CheckpointStatus::kOk;
}

CheckpointStatus CheckpointStore::Load(uint64_t model_hash, const Segment* segments,
                                       uint32_t count) const {
  Slots slots;
  const CheckpointStatus status = Scan(&slots);
  if (status != CheckpointStatus::kOk) return status;
  if (slots.newest < 0) return CheckpointStatus::kNone;
  if (slots.info.model_hash != model_hash) return CheckpointStatus::kOtherModel;
  uint32_t size;
  if (!TotalSize(segments, count, capacity(), &size) || size != slots.info.payload_size) {
    return CheckpointStatus::kOtherSize;
  }

  const uint32_t start = static_cast<uint32_t>(slots.newest) * slot_size_;
  uint8_t header[kCheckpointHeaderSize];
  if (!flash_->Read(start, header, sizeof(header))) return CheckpointStatus::kFlashFailure;
  uint32_t crc = Crc32(header, kCrcAt);
  uint32_t address = start + kCheckpointHeaderSize;
  for (uint32_t i = 0; i < count; ++i) {
    if (segments[i].size == 0) continue;
    if (!flash_->Read(address, segments[i].data, segments[i].size)) {
      return CheckpointStatus::kFlashFailure;
    }
    crc = Crc32(segments[i].data, segments[i].size, crc);
    address += segments[i].size;
  }
  return crc == LoadLe32(header + kCrcAt) ? CheckpointStatus::kOk : CheckpointStatus::kFlashFailure;
}

CheckpointStatus CheckpointStore::Clear() {
  Slots slots;
  const CheckpointStatus status = Scan(&slots);
  if (status != CheckpointStatus::kOk) return status;
  const uint32_t last = slots.newest == 1 ? 1 : 0;
  // Without its first page, and so its header, a slot is empty.
  if (!flash_->ErasePage((1 - last) * slot_size_) || !flash_->ErasePage(last * slot_size_)) {
    return CheckpointStatus::kFlashFailure;
  }
  return CheckpointStatus::kOk;
}

CheckpointStatus CheckpointStore::Scan(Slots* slots) const {
  slots->newest = -1;
  slots->info = CheckpointInfo{};
  if (slot_size_ == 0) return CheckpointStatus::kBadGeometry;
  for (uint32_t slot = 0; slot < 2; ++slot) {
    bool valid;
    CheckpointInfo info;
    const CheckpointStatus status = ReadSlot(slot, &valid, &info);
    if (status != CheckpointStatus::kOk) return status;
    if (valid && (slots->newest < 0 || info.sequence > slots->info.sequence)) {
      slots->newest = static_cast<int>(slot);
      slots->info = info;
    }
  }
  return CheckpointStatus::kOk;
}

// kFlashFailure rather than "not valid" if the flash does not answer: a save would then erase the
// newest checkpoint.
CheckpointStatus CheckpointStore::ReadSlot(uint32_t slot, bool* valid, CheckpointInfo* info) const {
  *valid = false;
  uint8_t header[kCheckpointHeaderSize];
  if (!flash_->Read(slot * slot_size_, header, sizeof(header))) {
    return CheckpointStatus::kFlashFailure;
  }
  if (LoadLe32(header + kMagicAt) != kMagic) return CheckpointStatus::kOk;
  info->sequence = LoadLe32(header + kSequenceAt);
  info->model_hash = LoadLe64(header + kModelHashAt);
  info->payload_size = LoadLe32(header + kPayloadSizeAt);
  if (info->payload_size > capacity()) return CheckpointStatus::kOk;
  uint32_t crc = Crc32(header, kCrcAt);
  if (!PayloadCrc(slot, info->payload_size, &crc)) return CheckpointStatus::kFlashFailure;
  *valid = crc == LoadLe32(header + kCrcAt);
  return CheckpointStatus::kOk;
}

// Continues *crc over the payload of `size` bytes as the flash has it; false if the flash does not
// answer.
bool CheckpointStore::PayloadCrc(uint32_t slot, uint32_t size, uint32_t* crc) const {
  uint8_t chunk[kChunk];
  const uint32_t start = slot * slot_size_ + kCheckpointHeaderSize;
  for (uint32_t offset = 0; offset < size; offset += kChunk) {
    const uint32_t bytes = Min(kChunk, size - offset);
    if (!flash_->Read(start + offset, chunk, bytes)) return false;
    *crc = Crc32(chunk, bytes, *crc);
  }
  return true;
}

// Gathers the segments into chunks: flash takes aligned granules, segments have any address and
// size.
bool CheckpointStore::WritePayload(uint32_t slot, const ConstSegment* segments, uint32_t count) {
  uint8_t chunk[kChunk];
  uint32_t address = slot * slot_size_ + kCheckpointHeaderSize;  // of the first byte in the chunk
  uint32_t used = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const uint8_t* data = static_cast<const uint8_t*>(segments[i].data);
    uint32_t left = segments[i].size;
    while (left != 0) {
      // A chunk ends at a multiple of its size, so that no write reaches into the next page.
      const uint32_t bytes = Min(left, kChunk - (address + used) % kChunk);
      std::memcpy(chunk + used, data, bytes);
      data += bytes;
      left -= bytes;
      used += bytes;
      if ((address + used) % kChunk == 0) {
        if (!flash_->Write(address, chunk, used)) return false;
        address += used;
        used = 0;
      }
    }
  }
  if (used == 0) return true;
  const uint32_t granule = flash_->write_granularity();
  const uint32_t padded = (used + granule - 1) / granule * granule;
  std::memset(chunk + used, 0xFF, padded - used);
  return flash_->Write(address, chunk, padded);
}

}  // namespace tflm_zo
