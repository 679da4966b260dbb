// SPDX-License-Identifier: Apache-2.0
//
// A test program: any number of TEST(name) { ... } with CHECKs in them, then CHECK_MAIN().
//
// No heap, no exceptions, no stdio: the same program runs on the host and on a bare Cortex-M. Exit
// status 0 if every check held and there was at least one. A check that fails prints a line, and
// the test goes on; each CHECK returns whether it held, for tests in which it makes no sense to.
#ifndef TFLM_ZO_TESTS_CHECK_H_
#define TFLM_ZO_TESTS_CHECK_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__arm__)
#include "qemu/semihosting.h"
#else
#include <cstdio>
#endif

#define CHECK(condition) \
  ::check::Report(static_cast<bool>(condition), __FILE__, __LINE__, #condition)

#define CHECK_EQ(actual, expected) \
  ::check::Equal((actual), (expected), __FILE__, __LINE__, #actual " == " #expected)

// `size` bytes at two addresses; names the first that differs.
#define CHECK_BYTES_EQ(actual, expected, size) \
  ::check::BytesEqual((actual), (expected), (size), __FILE__, __LINE__, #actual " == " #expected)

#define TEST(name)                                            \
  static void Test##name();                                   \
  static ::check::Test registered_##name(#name, &Test##name); \
  static void Test##name()

#define CHECK_MAIN() \
  int main() { return ::check::RunAll(); }

namespace check {

// A line of output, put together without printf. What does not fit is cut off.
class Line {
 public:
  Line& operator<<(const char* text) {
    while (*text != '\0') Put(*text++);
    return *this;
  }

  template <typename T>
  Line& operator<<(T value) {
    if constexpr (std::is_same_v<T, bool>) {
      return *this << (value ? "true" : "false");
    } else if constexpr (std::is_enum_v<T>) {
      return *this << static_cast<int64_t>(value);
    } else if constexpr (std::is_floating_point_v<T>) {
      return Float(static_cast<float>(value));
    } else if constexpr (std::is_pointer_v<T>) {
      return Hex(reinterpret_cast<uintptr_t>(value));
    } else {
      static_assert(std::is_integral_v<T>, "a value that CHECK_EQ can print");
      if (value < 0) Put('-');
      const uint64_t magnitude = static_cast<uint64_t>(value);
      return Decimal(value < 0 ? 0 - magnitude : magnitude);
    }
  }

  Line& Hex(uint64_t value) {
    *this << "0x";
    bool leading = true;
    for (int shift = 60; shift >= 0; shift -= 4) {
      const uint32_t digit = static_cast<uint32_t>(value >> shift) & 15u;
      if (digit == 0 && leading && shift != 0) continue;
      leading = false;
      Put("0123456789abcdef"[digit]);
    }
    return *this;
  }

  void Print() {
    text_[size_++] = '\n';
#if defined(__arm__)
    semihosting::Write(text_, size_);
#else
    std::fwrite(text_, 1, size_, stdout);
    std::fflush(stdout);
#endif
    size_ = 0;
  }

 private:
  void Put(char c) {
    if (size_ < sizeof(text_) - 1) text_[size_++] = c;
  }

  Line& Decimal(uint64_t value) {
    char digits[20];
    int count = 0;
    do {
      digits[count++] = static_cast<char>('0' + value % 10);
      value /= 10;
    } while (value != 0);
    while (count != 0) Put(digits[--count]);
    return *this;
  }

  // Six decimals where that says something, and always the bits: results here have to agree to the
  // last one.
  Line& Float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const float magnitude = value < 0 ? -value : value;
    if (magnitude < 1e9f) {
      if (value < 0) Put('-');
      const uint64_t millionths = static_cast<uint64_t>(static_cast<double>(magnitude) * 1e6 + 0.5);
      Decimal(millionths / 1000000);
      Put('.');
      for (uint64_t unit = 100000; unit != 0; unit /= 10) {
        Put(static_cast<char>('0' + millionths / unit % 10));
      }
      Put(' ');
    }
    return (*this << "(").Hex(bits) << ")";
  }

  char text_[240];
  uint32_t size_ = 0;
};

struct Test;

struct Totals {
  Test* first = nullptr;
  Test* last = nullptr;
  uint32_t checks = 0;
  uint32_t failures = 0;
};

inline Totals& TheTotals() {
  static Totals totals;
  return totals;
}

struct Test {
  Test(const char* test_name, void (*test_body)()) : name(test_name), body(test_body) {
    Totals& totals = TheTotals();
    (totals.first == nullptr ? totals.first : totals.last->next) = this;
    totals.last = this;
  }

  const char* name;
  void (*body)();
  Test* next = nullptr;
};

// Counts a check; true if its failure is to be printed. The first ones tell the story.
inline bool Count(bool held) {
  constexpr uint32_t kPrintedFailures = 20;
  Totals& totals = TheTotals();
  ++totals.checks;
  if (!held) ++totals.failures;
  return !held && totals.failures <= kPrintedFailures;
}

inline bool Report(bool held, const char* file, int line, const char* text) {
  if (Count(held)) {
    Line out;
    (out << file << ":" << line << ": failed: " << text).Print();
  }
  return held;
}

template <typename Actual, typename Expected>
bool Equal(Actual actual, Expected expected, const char* file, int line, const char* text) {
  bool held;
  if constexpr (std::is_integral_v<Actual> && std::is_integral_v<Expected> &&
                !std::is_same_v<Actual, bool>) {
    // Literals are signed, sizes are not: compare the values, not what conversion makes of them.
    held = (actual < 0) == (expected < 0) &&
           static_cast<uint64_t>(actual) == static_cast<uint64_t>(expected);
  } else {
    held = actual == expected;
  }
  if (Count(held)) {
    Line out;
    (out << file << ":" << line << ": failed: " << text << "; got " << actual << ", expected "
         << expected)
        .Print();
  }
  return held;
}

inline bool BytesEqual(const void* actual, const void* expected, uint32_t size, const char* file,
                       int line, const char* text) {
  const uint8_t* a = static_cast<const uint8_t*>(actual);
  const uint8_t* e = static_cast<const uint8_t*>(expected);
  uint32_t at = 0;
  while (at < size && a[at] == e[at]) ++at;
  if (Count(at == size)) {
    Line out;
    (out << file << ":" << line << ": failed: " << text << "; byte " << at << " of " << size
         << ": got " << a[at] << ", expected " << e[at])
        .Print();
  }
  return at == size;
}

inline int RunAll() {
  Totals& totals = TheTotals();
  for (Test* test = totals.first; test != nullptr; test = test->next) {
    const uint32_t failures = totals.failures;
    const uint32_t checks = totals.checks;
    test->body();
    Line out;
    (out << (totals.failures == failures ? "ok      " : "FAILED  ") << test->name << ": "
         << totals.checks - checks << " checks")
        .Print();
  }
  Line out;
  if (totals.checks == 0) {
    (out << "FAILED  no check was made").Print();
    return 1;
  }
  (out << totals.checks << " checks, " << totals.failures << " failed").Print();
  return totals.failures == 0 ? 0 : 1;
}

}  // namespace check

#endif  // TFLM_ZO_TESTS_CHECK_H_
