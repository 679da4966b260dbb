// SPDX-License-Identifier: Apache-2.0
#include "crc32.h"

namespace tflm_zo {
namespace {

constexpr uint32_t kPolynomial = 0xEDB88320u;

// Remainders of the 16 values of a half byte: 64 bytes of flash for four bits a step, instead of 1
// KB for eight.
struct NibbleTable {
  uint32_t remainder[16];
  constexpr NibbleTable() : remainder() {
    for (uint32_t nibble = 0; nibble < 16; ++nibble) {
      uint32_t value = nibble;
      for (int bit = 0; bit < 4; ++bit) {
        value = (value >> 1) ^ ((value & 1u) != 0 ? kPolynomial : 0u);
      }
      remainder[nibble] = value;
    }
  }
};

constexpr NibbleTable kTable;

}  // namespace

uint32_t Crc32(const void* data, uint32_t size, uint32_t crc) {
  const uint8_t* bytes = static_cast<const uint8_t*>(data);
  crc = ~crc;
  for (uint32_t i = 0; i < size; ++i) {
    crc ^= bytes[i];
    crc = (crc >> 4) ^ kTable.remainder[crc & 15u];
    crc = (crc >> 4) ^ kTable.remainder[crc & 15u];
  }
  return ~crc;
}

}  // namespace tflm_zo
