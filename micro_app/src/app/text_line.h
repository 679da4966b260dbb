// SPDX-License-Identifier: Apache-2.0
//
// One line of text in memory of its own: printf of C libraries needs a heap or kilobytes of flash.
#ifndef TFLM_ZO_MICRO_APP_TEXT_LINE_H_
#define TFLM_ZO_MICRO_APP_TEXT_LINE_H_

#include <cstdint>

namespace tflm_zo {

// What does not fit is cut off.
class TextLine {
 public:
  const char* text() const { return text_; }

  TextLine& Add(const char* text) {
    while (*text != '\0') Put(*text++);
    return *this;
  }

  TextLine& AddNumber(uint32_t value) {
    char digits[10];
    int count = 0;
    do {
      digits[count++] = static_cast<char>('0' + value % 10);
      value /= 10;
    } while (value != 0);
    while (count > 0) Put(digits[--count]);
    return *this;
  }

  TextLine& AddHex(uint32_t value) {
    for (int shift = 28; shift >= 0; shift -= 4) Put("0123456789abcdef"[(value >> shift) & 15u]);
    return *this;
  }

  // With four decimals. For losses and shares: what is not in 0 .. 400,000 is shown as its end.
  TextLine& AddDecimal(float value) {
    if (!(value >= 0.0f)) value = 0.0f;
    if (value > 400000.0f) value = 400000.0f;
    const auto scaled = static_cast<uint32_t>(value * 10000.0f + 0.5f);
    AddNumber(scaled / 10000).Add(".");
    for (uint32_t unit = 1000; unit > 0; unit /= 10)
      Put(static_cast<char>('0' + scaled / unit % 10));
    return *this;
  }

 private:
  void Put(char c) {
    if (size_ + 1 < sizeof(text_)) text_[size_++] = c;
    text_[size_] = '\0';
  }

  char text_[120] = {};
  uint32_t size_ = 0;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_TEXT_LINE_H_
