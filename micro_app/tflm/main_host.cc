// SPDX-License-Identifier: Apache-2.0
//
// train_stream STREAM WEIGHTS: carries a training stream out on this machine.
#include <cstdio>

#include "run.h"

namespace {

class FileSource final : public tflm_zo::StreamSource {
 public:
  explicit FileSource(std::FILE* file) : file_(file) {}
  bool Read(void* data, uint32_t size) override { return std::fread(data, 1, size, file_) == size; }

 private:
  std::FILE* file_;
};

class FileSink final : public tflm_zo::WeightSink {
 public:
  explicit FileSink(std::FILE* file) : file_(file) {}
  bool Write(const void* data, uint32_t size) override {
    return std::fwrite(data, 1, size, file_) == size;
  }

 private:
  std::FILE* file_;
};

class Console final : public tflm_zo::TextSink {
 public:
  void Print(const char* text) override { std::fputs(text, stdout); }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: train_stream STREAM WEIGHTS\n", stderr);
    return 2;
  }
  std::FILE* in = std::fopen(argv[1], "rb");
  std::FILE* out = std::fopen(argv[2], "wb");
  if (in == nullptr || out == nullptr) {
    std::fprintf(stderr, "cannot open %s\n", in == nullptr ? argv[1] : argv[2]);
    return 2;
  }
  static tflm_zo::TrainingRun run;
  FileSource source(in);
  FileSink weights(out);
  Console console;
  const bool done = run.Run(&source, &console, &weights);
  std::fclose(in);
  return std::fclose(out) == 0 && done ? 0 : 1;
}
