// SPDX-License-Identifier: Apache-2.0
//
// Carries a training stream out on a Cortex-M4F in QEMU, which hands it two files by semihosting:
// the stream and the trained weights, named on the emulator's command line.
//
// Time is what the CMSDK timer of the mps2 boards counts: 25 MHz, so with -icount shift=0 (one
// nanosecond an instruction) 40 instructions a tick.
#include <new>

#include "run.h"
#include "semihosting.h"

// TFLM's cortex_m_generic prints through a callback; other builds of it have none.
extern "C" __attribute__((weak)) void RegisterDebugLogCallback(void (*callback)(const char*));

namespace {

constexpr uint32_t kOpen = 0x01;
constexpr uint32_t kClose = 0x02;
constexpr uint32_t kWrite = 0x05;
constexpr uint32_t kRead = 0x06;
constexpr uint32_t kGetCommandLine = 0x15;
constexpr uint32_t kReadBinary = 1;
constexpr uint32_t kWriteBinary = 5;
constexpr uint32_t kNoFile = 0xFFFFFFFFu;

uint32_t Length(const char* text) {
  uint32_t length = 0;
  while (text[length] != '\0') ++length;
  return length;
}

uint32_t Address(const void* pointer) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pointer));
}

uint32_t Open(const char* name, uint32_t mode) {
  const uint32_t block[3] = {Address(name), mode, Length(name)};
  return semihosting::Call(kOpen, block);
}

void Print(const char* text) { semihosting::Write(text, Length(text)); }

class Console final : public tflm_zo::TextSink {
 public:
  void Print(const char* text) override { ::Print(text); }
};

class FileSource final : public tflm_zo::StreamSource {
 public:
  explicit FileSource(uint32_t file) : file_(file) {}
  bool Read(void* data, uint32_t size) override {
    const uint32_t block[3] = {file_, Address(data), size};
    return semihosting::Call(kRead, block) == 0;  // the number of bytes that are missing
  }

 private:
  uint32_t file_;
};

class FileSink final : public tflm_zo::WeightSink {
 public:
  explicit FileSink(uint32_t file) : file_(file) {}
  bool Write(const void* data, uint32_t size) override {
    const uint32_t block[3] = {file_, Address(data), size};
    return semihosting::Call(kWrite, block) == 0;
  }

 private:
  uint32_t file_;
};

// Counts down from its reload value.
class Timer {
 public:
  Timer() {
    Register(0x08) = kNoFile;  // reload
    Register(0x04) = kNoFile;  // value
    Register(0x00) = 1;        // control: run
  }
  uint32_t ticks() const { return kNoFile - Register(0x04); }

 private:
  static volatile uint32_t& Register(uint32_t offset) {
    return *reinterpret_cast<volatile uint32_t*>(0x40000000u + offset);
  }
};

// Splits "program stream weights" in place.
bool FileNames(char* line, const char** stream, const char** weights) {
  const char* words[3] = {};
  int count = 0;
  bool in_word = false;
  for (char* c = line; *c != '\0'; ++c) {
    if (*c == ' ') {
      *c = '\0';
      in_word = false;
    } else if (!in_word) {
      if (count == 3) return false;
      words[count++] = c;
      in_word = true;
    }
  }
  *stream = words[1];
  *weights = words[2];
  return count == 3;
}

}  // namespace

int main() {
  static char line[512];
  uint32_t block[2] = {Address(line), sizeof(line)};
  const char* stream_name = nullptr;
  const char* weights_name = nullptr;
  if (semihosting::Call(kGetCommandLine, block) != 0 ||
      !FileNames(line, &stream_name, &weights_name)) {
    Print("error: name the stream and the file for the weights on the command line\n");
    return 2;
  }
  if (RegisterDebugLogCallback != nullptr) RegisterDebugLogCallback(Print);
  const uint32_t stream = Open(stream_name, kReadBinary);
  const uint32_t weights_file = Open(weights_name, kWriteBinary);
  if (stream == kNoFile || weights_file == kNoFile) {
    Print("error: cannot open the stream or the file for the weights\n");
    return 2;
  }
  // Placed by hand: a static object would have its destructor called at the exit there is not.
  alignas(tflm_zo::TrainingRun) static uint8_t memory[sizeof(tflm_zo::TrainingRun)];
  auto* run = new (memory) tflm_zo::TrainingRun;
  FileSource source(stream);
  FileSink weights(weights_file);
  Console console;
  const Timer timer;
  const bool done = run->Run(&source, &console, &weights);
  tflm_zo::TextLine ticks;
  Print(ticks.Add("timer ").AddNumber(timer.ticks()).Add(" ticks of 40 ns\n").text());
  const uint32_t close[1] = {weights_file};
  return semihosting::Call(kClose, close) == 0 && done ? 0 : 1;
}
