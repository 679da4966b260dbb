// SPDX-License-Identifier: Apache-2.0
//
// Little-endian integers in byte buffers of any alignment.
#ifndef TFLM_ZO_MICRO_APP_BYTE_ORDER_H_
#define TFLM_ZO_MICRO_APP_BYTE_ORDER_H_

#include <cstdint>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Messages and options are read as they lie in memory: this needs a little-endian machine."
#endif

namespace tflm_zo {

inline void StoreLe16(uint8_t* to, uint16_t value) {
  to[0] = static_cast<uint8_t>(value);
  to[1] = static_cast<uint8_t>(value >> 8);
}

inline void StoreLe32(uint8_t* to, uint32_t value) {
  StoreLe16(to, static_cast<uint16_t>(value));
  StoreLe16(to + 2, static_cast<uint16_t>(value >> 16));
}

inline void StoreLe64(uint8_t* to, uint64_t value) {
  StoreLe32(to, static_cast<uint32_t>(value));
  StoreLe32(to + 4, static_cast<uint32_t>(value >> 32));
}

inline uint16_t LoadLe16(const uint8_t* from) {
  return static_cast<uint16_t>(from[0] | (from[1] << 8));
}

inline uint32_t LoadLe32(const uint8_t* from) {
  return LoadLe16(from) | (static_cast<uint32_t>(LoadLe16(from + 2)) << 16);
}

inline uint64_t LoadLe64(const uint8_t* from) {
  return LoadLe32(from) | (static_cast<uint64_t>(LoadLe32(from + 4)) << 32);
}

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_BYTE_ORDER_H_
