// SPDX-License-Identifier: Apache-2.0
//
// Output and exit through the debugger, here QEMU: Arm's "Semihosting for AArch32 and AArch64".
#ifndef TFLM_ZO_TESTS_QEMU_SEMIHOSTING_H_
#define TFLM_ZO_TESTS_QEMU_SEMIHOSTING_H_

#include <cstdint>

namespace semihosting {

// Operation number in r0, argument or address of an argument block in r1; bkpt 0xAB is the call on
// M profile.
inline uint32_t Call(uint32_t operation, const void* argument) {
  register uint32_t r0 asm("r0") = operation;
  register const void* r1 asm("r1") = argument;
  asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

// Writes to the standard output of the emulator.
inline void Write(const char* text, uint32_t size) {
  constexpr uint32_t kOpen = 0x01;
  constexpr uint32_t kWrite = 0x05;
  constexpr uint32_t kModeWrite = 4;
  static const uint32_t console = [] {
    static const char kConsole[] = ":tt";
    const uint32_t block[3] = {reinterpret_cast<uintptr_t>(kConsole), kModeWrite, 3};
    return Call(kOpen, block);
  }();
  const uint32_t block[3] = {console, reinterpret_cast<uintptr_t>(text), size};
  Call(kWrite, block);
}

[[noreturn]] inline void Exit(int status) {
  constexpr uint32_t kExitExtended = 0x20;
  constexpr uint32_t kApplicationExit = 0x20026;
  const uint32_t block[2] = {kApplicationExit, static_cast<uint32_t>(status)};
  for (;;) Call(kExitExtended, block);
}

}  // namespace semihosting

#endif  // TFLM_ZO_TESTS_QEMU_SEMIHOSTING_H_
