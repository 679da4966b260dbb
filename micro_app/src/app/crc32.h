// SPDX-License-Identifier: Apache-2.0
//
// CRC-32 as in IEEE 802.3, zlib and PNG: reflected polynomial 0xEDB88320, start and final xor
// 0xFFFFFFFF.
#ifndef TFLM_ZO_MICRO_APP_CRC32_H_
#define TFLM_ZO_MICRO_APP_CRC32_H_

#include <cstdint>

namespace tflm_zo {

// CRC of `size` bytes at `data`. To go on over data in pieces, hand the result so far in as `crc`:
// Crc32(b, nb, Crc32(a, na)) is the CRC of a followed by b. The CRC of nothing is 0.
uint32_t Crc32(const void* data, uint32_t size, uint32_t crc = 0);

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_CRC32_H_
