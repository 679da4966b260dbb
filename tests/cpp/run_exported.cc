// SPDX-License-Identifier: Apache-2.0
//
// run_exported INPUTS OUTPUTS: runs the model of an exported sketch in the TFLM library it was
// exported for. INPUTS has the bytes of all its inputs, pass after pass; OUTPUTS gets those of all
// its outputs.
#include <cstdio>

#include "model.h"
#include "model_ops.h"
#include "tflm_runtime.h"

namespace {

constexpr int kMostTensors = 8;
// TFLM's structures are larger on a PC, and what a board's arena needs is not what is tested here.
constexpr size_t kArena = 16u << 20;

alignas(16) uint8_t arena[kArena];

bool ReadInputs(tflm_zo::TflmInterpreter* interpreter, std::FILE* file) {
  for (int i = 0; i < kMostTensors; ++i) {
    const tflm_zo::TensorMemory memory = interpreter->Input(i);
    if (memory.data == nullptr) break;
    if (std::fread(memory.data, 1, memory.bytes, file) != memory.bytes) return false;
  }
  return true;
}

void WriteOutputs(tflm_zo::TflmInterpreter* interpreter, std::FILE* file) {
  for (int i = 0; i < kMostTensors; ++i) {
    const tflm_zo::TensorMemory memory = interpreter->Output(i);
    if (memory.data == nullptr) break;
    std::fwrite(memory.data, 1, memory.bytes, file);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  std::FILE* in = std::fopen(argv[1], "rb");
  std::FILE* out = std::fopen(argv[2], "wb");
  if (in == nullptr || out == nullptr) return 2;
  static ModelOps ops;
  if (!ops.Add()) return 3;
  static tflm_zo::TflmInterpreter interpreter(kModel, ops.resolver(),
                                              tflite::MicroAllocator::Create(arena, kArena));
  if (!interpreter.Allocate()) return 3;
  while (ReadInputs(&interpreter, in)) {
    if (!interpreter.Invoke()) return 4;
    WriteOutputs(&interpreter, out);
  }
  return std::fclose(out) == 0 ? 0 : 1;
}
