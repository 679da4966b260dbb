// SPDX-License-Identifier: Apache-2.0
//
// NOR flash in memory, with power cuts at every operation and a strict eye on its user.
#ifndef TFLM_ZO_TESTS_SIM_FLASH_H_
#define TFLM_ZO_TESTS_SIM_FLASH_H_

#include <cstdint>
#include <cstring>

#include "app/hal.h"
#include "xorshift.h"

// What becomes of the operation during which the power goes.
enum class Cut : uint8_t {
  kBefore,  // nothing happens
  kRandom,  // some bits change, others do not
  kHalf,    // an erase reaches the first half of the page, a write the low half of the granule
  kAfter,   // all of it happens, but nobody learns
};

struct Geometry {
  uint32_t page_size;
  uint32_t granule;
  uint32_t pages;
};

// One operation is the erase of a page or the write of a granule. Can be copied, to go on from one
// state many times.
class SimFlash final : public tflm_zo::Flash {
 public:
  static constexpr uint32_t kMaxSize = 6 * 4096;
  static constexpr uint32_t kMaxPages = 16;
  static constexpr uint32_t kNever = 0xFFFFFFFFu;

  // A new, erased one in place of this one. (Too large to be built on a board's stack and copied.)
  void Renew(const Geometry& geometry) {
    geometry_ = geometry;
    std::memset(bytes_, 0xFF, sizeof(bytes_));
    std::memset(dirty_, 0, sizeof(dirty_));
    std::memset(erasures, 0, sizeof(erasures));
    operations = 0;
    violations = 0;
    worn_address = kNever;
    failing_operation = kNever;
    failing_read = kNever;
    PowerUp();
  }

  uint32_t size() const override { return geometry_.page_size * geometry_.pages; }
  uint32_t page_size() const override { return geometry_.page_size; }
  uint32_t write_granularity() const override { return geometry_.granule; }

  bool ErasePage(uint32_t address) override {
    if (address % geometry_.page_size != 0 || address >= size()) return Violation();
    if (!powered_ || Fails(&failing_operation)) return false;
    uint8_t* const page = bytes_ + address;
    ++erasures[address / geometry_.page_size];
    bool clean = true;
    if (operations++ == cut_at_) {
      powered_ = false;
      clean = cut_ == Cut::kAfter;
      if (cut_ == Cut::kBefore) return false;
      if (cut_ == Cut::kHalf) std::memset(page, 0xFF, geometry_.page_size / 2);
      if (cut_ == Cut::kRandom) {
        for (uint32_t i = 0; i < geometry_.page_size; ++i) page[i] |= RandomByte();
      }
    }
    if (clean) std::memset(page, 0xFF, geometry_.page_size);
    // Cells of an erase cut short may look erased; they are not to be written all the same.
    for (uint32_t i = 0; i < geometry_.page_size; i += geometry_.granule) {
      dirty_[(address + i) / geometry_.granule] = !clean;
    }
    return powered_;
  }

  bool Write(uint32_t address, const void* data, uint32_t size_to_write) override {
    const uint32_t granule = geometry_.granule;
    if (address % granule != 0 || size_to_write % granule != 0 || size_to_write == 0 ||
        address + size_to_write > size() ||
        address / geometry_.page_size != (address + size_to_write - 1) / geometry_.page_size) {
      return Violation();
    }
    const uint8_t* from = static_cast<const uint8_t*>(data);
    for (uint32_t at = address; at < address + size_to_write; at += granule, from += granule) {
      if (!powered_ || Fails(&failing_operation)) return false;
      if (dirty_[at / granule]) return Violation();
      uint8_t cleared[kMaxGranule];
      for (uint32_t i = 0; i < granule; ++i) cleared[i] = static_cast<uint8_t>(~from[i]);
      if (operations++ == cut_at_) {
        powered_ = false;
        if (cut_ == Cut::kBefore) return false;
        for (uint32_t i = 0; i < granule; ++i) {
          if (cut_ == Cut::kRandom) cleared[i] &= RandomByte();
          if (cut_ == Cut::kHalf && i >= granule / 2) cleared[i] = 0;
        }
      }
      dirty_[at / granule] = true;
      for (uint32_t i = 0; i < granule; ++i) {
        bytes_[at + i] = static_cast<uint8_t>(bytes_[at + i] & ~cleared[i]);
        if (at + i == worn_address) bytes_[at + i] |= worn_bits;
      }
      if (!powered_) return false;
    }
    return true;
  }

  bool Read(uint32_t address, void* data, uint32_t size_to_read) const override {
    if (address > size() || size_to_read > size() - address) return Violation();
    if (!powered_ || Fails(&failing_read)) return false;
    std::memcpy(data, bytes_ + address, size_to_read);
    return true;
  }

  // The power goes during the operation that comes after `operations_from_now` more.
  void CutPower(uint32_t operations_from_now, Cut cut, uint32_t seed) {
    cut_at_ = operations + operations_from_now;
    cut_ = cut;
    random_ = Xorshift(seed);
  }

  void PowerUp() {
    powered_ = true;
    cut_at_ = kNever;
  }

  bool powered() const { return powered_; }
  uint8_t* bytes() { return bytes_; }

  // Content that comes from elsewhere, such as an earlier use of the flash.
  void FillWith(uint8_t value) {
    std::memset(bytes_, value, sizeof(bytes_));
    std::memset(dirty_, 1, sizeof(dirty_));
  }

  uint32_t operations = 0;
  uint32_t erasures[kMaxPages] = {};
  mutable uint32_t violations = 0;  // wrong use: alignment, range, or a write to what is not erased
  uint32_t worn_address = kNever;   // a byte ...
  uint8_t worn_bits = 0;            // ... whose bits here can no longer be cleared
  // The operation and the read, counted from now on, that fails and does nothing; all others work.
  uint32_t failing_operation = kNever;
  mutable uint32_t failing_read = kNever;

 private:
  static constexpr uint32_t kMaxGranule = 32;

  bool Violation() const {
    ++violations;
    return false;
  }

  static bool Fails(uint32_t* countdown) { return *countdown != kNever && (*countdown)-- == 0; }

  uint8_t RandomByte() { return static_cast<uint8_t>(random_.Next() >> 8); }

  Geometry geometry_ = {};
  bool powered_ = true;
  uint32_t cut_at_ = kNever;
  Cut cut_ = Cut::kBefore;
  Xorshift random_{1};
  bool dirty_[kMaxSize / 4] = {};  // by granule
  uint8_t bytes_[kMaxSize] = {};
};

#endif  // TFLM_ZO_TESTS_SIM_FLASH_H_
