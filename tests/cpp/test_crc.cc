// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include "app/crc32.h"
#include "check.h"
#include "xorshift.h"

using tflm_zo::Crc32;

namespace {

// The definition, one bit at a time.
uint32_t BitwiseCrc32(const uint8_t* data, uint32_t size) {
  uint32_t remainder = 0xFFFFFFFFu;
  for (uint32_t i = 0; i < size; ++i) {
    for (uint32_t bit = 0; bit < 8; ++bit) {
      const uint32_t feedback = (remainder ^ (data[i] >> bit)) & 1u;
      remainder = (remainder >> 1) ^ (feedback * 0xEDB88320u);
    }
  }
  return remainder ^ 0xFFFFFFFFu;
}

}  // namespace

TEST(KnownValues) {
  CHECK_EQ(Crc32("", 0), 0u);
  CHECK_EQ(Crc32("123456789", 9), 0xCBF43926u);  // the check value that catalogues of CRCs list
  CHECK_EQ(Crc32("\0\0\0\0", 4), 0x2144DF1Cu);
  CHECK_EQ(Crc32("\xFF\xFF\xFF\xFF", 4), 0xFFFFFFFFu);
}

TEST(AgreesWithTheDefinition) {
  Xorshift random(1);
  uint8_t data[300] = {};
  for (uint32_t size = 0; size <= sizeof(data); ++size) {
    for (uint32_t i = 0; i < size; ++i) data[i] = static_cast<uint8_t>(random.Next());
    CHECK_EQ(Crc32(data, size), BitwiseCrc32(data, size));
  }
}

TEST(GoesOnOverPieces) {
  Xorshift random(2);
  uint8_t data[100];
  for (uint8_t& byte : data) byte = static_cast<uint8_t>(random.Next());
  const uint32_t whole = Crc32(data, sizeof(data));
  for (uint32_t split = 0; split <= sizeof(data); ++split) {
    CHECK_EQ(Crc32(data + split, sizeof(data) - split, Crc32(data, split)), whole);
  }
}

CHECK_MAIN()
