// SPDX-License-Identifier: Apache-2.0
//
// Random numbers for tests: the same on every platform, and in the Python tests. G. Marsaglia,
// "Xorshift RNGs", Journal of Statistical Software 8(14), 2003.
#ifndef TFLM_ZO_TESTS_XORSHIFT_H_
#define TFLM_ZO_TESTS_XORSHIFT_H_

#include <cstdint>

class Xorshift {
 public:
  explicit Xorshift(uint32_t seed) : state_(seed) {}  // seed != 0

  uint32_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 17;
    state_ ^= state_ << 5;
    return state_;
  }

  // 0 <= result < limit
  uint32_t Below(uint32_t limit) { return Next() % limit; }

 private:
  uint32_t state_;
};

#endif  // TFLM_ZO_TESTS_XORSHIFT_H_
