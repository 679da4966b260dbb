// SPDX-License-Identifier: Apache-2.0
//
// The system calls under newlib's vsnprintf, which TFLM formats its messages with: there is no
// system and no heap, so each of them fails.
#include <cerrno>
#include <cstdint>

extern "C" {

void* _sbrk(intptr_t) {
  errno = ENOMEM;
  return reinterpret_cast<void*>(-1);
}

int _write(int, const void*, unsigned) { return -1; }
int _read(int, void*, unsigned) { return -1; }
int _close(int) { return -1; }
int _fstat(int, void*) { return -1; }
int _isatty(int) { return 0; }
int _lseek(int, int, int) { return -1; }
int _kill(int, int) { return -1; }
int _getpid() { return 1; }

}  // extern "C"
