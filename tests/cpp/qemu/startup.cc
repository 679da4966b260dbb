// SPDX-License-Identifier: Apache-2.0
//
// From reset to main() and back out, on the Cortex-M4F of QEMU's mps2-an386.
#include <cstddef>
#include <cstdint>

#include "semihosting.h"

int main();

extern "C" {

// Set by the linker script; only their addresses mean something.
extern uint32_t linker_stack_top;
extern const uint32_t linker_data_source;
extern uint32_t linker_data_start;
extern uint32_t linker_data_end;
extern uint32_t linker_bss_start;
extern uint32_t linker_bss_end;
using Constructor = void (*)();
extern const Constructor linker_constructors_start;
extern const Constructor linker_constructors_end;

void ResetHandler();
void FaultHandler();
[[noreturn]] void ReportFault(const uint32_t* frame);

// What a C++ library calls when things that cannot be have happened. No heap: a program that needs
// one does not link.
[[noreturn]] void _exit(int status) { semihosting::Exit(status); }
[[noreturn]] void abort() {
  semihosting::Write("abort()\n", 8);
  semihosting::Exit(134);
}
[[noreturn]] void __cxa_pure_virtual() {
  semihosting::Write("call of a pure virtual function\n", 32);
  semihosting::Exit(135);
}

}  // extern "C"

namespace {

void PrintHex(const char* label, uint32_t value) {
  char line[64];
  uint32_t size = 0;
  while (*label != '\0') line[size++] = *label++;
  for (int shift = 28; shift >= 0; shift -= 4)
    line[size++] = "0123456789abcdef"[(value >> shift) & 15u];
  line[size++] = '\n';
  semihosting::Write(line, size);
}

// Apart from ResetHandler, so that no floating-point instruction can come before the unit is on.
[[noreturn]] __attribute__((noinline)) void Start() {
  const uint32_t* source = &linker_data_source;
  for (uint32_t* word = &linker_data_start; word != &linker_data_end; ++word) *word = *source++;
  for (uint32_t* word = &linker_bss_start; word != &linker_bss_end; ++word) *word = 0;
  for (const Constructor* c = &linker_constructors_start; c != &linker_constructors_end; ++c)
    (*c)();
  semihosting::Exit(main());
}

}  // namespace

void ResetHandler() {
  // Coprocessor access control: full access to CP10 and CP11, the floating-point unit.
  volatile uint32_t* const cpacr = reinterpret_cast<uint32_t*>(0xE000ED88);
  *cpacr = *cpacr | (0xFu << 20);
  asm volatile("dsb\n isb" ::: "memory");
  Start();
}

// The processor has pushed r0-r3, r12, lr, pc and psr. A stack that ran over is no place for more,
// so start a new one.
__attribute__((naked)) void FaultHandler() {
  asm volatile(
      "mrs r0, msp\n"
      "ldr r1, =linker_stack_top\n"
      "mov sp, r1\n"
      "b ReportFault\n");
}

void ReportFault(const uint32_t* frame) {
  constexpr uint32_t kStackBottom = 0x20000000;
  const uint32_t exception = *reinterpret_cast<volatile uint32_t*>(0xE000ED04) & 0x1FFu;
  PrintHex("unexpected exception ", exception);
  PrintHex("fault status         ", *reinterpret_cast<volatile uint32_t*>(0xE000ED28));
  if (reinterpret_cast<uintptr_t>(frame) < kStackBottom) {
    PrintHex("stack overflow, sp = ", reinterpret_cast<uintptr_t>(frame));
  } else {
    PrintHex("at instruction       ", frame[6]);
  }
  semihosting::Exit(136);
}

namespace {

union Vector {
  uint32_t* stack;
  void (*handler)();
};

// Stack pointer, reset and the 14 system exceptions of ARMv7-M; no device interrupt is ever
// enabled.
__attribute__((section(".vectors"), used)) const Vector kVectors[16] = {
    {.stack = &linker_stack_top}, {.handler = ResetHandler}, {.handler = FaultHandler},
    {.handler = FaultHandler},    {.handler = FaultHandler}, {.handler = FaultHandler},
    {.handler = FaultHandler},    {.handler = FaultHandler}, {.handler = FaultHandler},
    {.handler = FaultHandler},    {.handler = FaultHandler}, {.handler = FaultHandler},
    {.handler = FaultHandler},    {.handler = FaultHandler}, {.handler = FaultHandler},
    {.handler = FaultHandler},
};

}  // namespace
