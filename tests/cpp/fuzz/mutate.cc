// SPDX-License-Identifier: Apache-2.0
//
// A driver for fuzz targets where there is no libFuzzer: FOLDER ROUNDS. Runs each file of the
// folder as it is, then with each of its 32-bit words replaced by numbers that break things, then
// ROUNDS times with some words replaced at random. The same in every run.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" long fuzz_passes;

namespace {

using Bytes = std::vector<uint8_t>;

constexpr int32_t kNumbers[] = {0,     -1,      1,       2,         3,         5,
                                127,   128,     255,     256,       32767,     65535,
                                65536, 1 << 24, 1 << 30, INT32_MAX, INT32_MIN, 0x7FC00000};

uint32_t Random() {
  static uint32_t state = 2463534242u;
  state ^= state << 13;
  state ^= state >> 17;
  state ^= state << 5;
  return state;
}

void Run(const Bytes& bytes) {
  // A copy without spare capacity: reading past its end is found.
  const Bytes exact(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

void Replace(Bytes* bytes, size_t word, int32_t value) {
  std::memcpy(bytes->data() + 4 * word, &value, sizeof(value));
}

int32_t WordAt(const Bytes& bytes, size_t word) {
  int32_t value;
  std::memcpy(&value, bytes.data() + 4 * word, sizeof(value));
  return value;
}

int32_t RandomNumber(int32_t present) {
  const auto now = static_cast<uint32_t>(present);
  switch (Random() % 4) {
    case 0:
      return static_cast<int32_t>(now + Random() % 17 - 8);
    case 1:
      return static_cast<int32_t>(now ^ (1u << Random() % 32));
    case 2:
      return static_cast<int32_t>(Random());
    default:
      return kNumbers[Random() % std::size(kNumbers)];
  }
}

long RunMutations(const Bytes& seed, long rounds) {
  const size_t words = seed.size() / 4;
  long runs = 1;
  const long before = fuzz_passes;
  Run(seed);
  if (fuzz_passes == before) {
    std::fprintf(stderr, "a file of the corpus runs nothing\n");
    std::exit(1);
  }
  for (size_t word = 0; word < words; ++word) {
    Bytes bytes = seed;
    const auto now = static_cast<uint32_t>(WordAt(seed, word));
    for (uint32_t near : {now + 1, now - 1, now * 2, 0u - now}) {
      Replace(&bytes, word, static_cast<int32_t>(near));
      Run(bytes);
    }
    for (int32_t number : kNumbers) {
      Replace(&bytes, word, number);
      Run(bytes);
    }
    runs += 4 + static_cast<long>(std::size(kNumbers));
  }
  for (long round = 0; round < rounds; ++round, ++runs) {
    Bytes bytes = seed;
    for (uint32_t i = 0; i <= Random() % 4; ++i) {
      const size_t word = Random() % words;
      Replace(&bytes, word, RandomNumber(WordAt(bytes, word)));
    }
    if (Random() % 16 == 0) bytes.resize(Random() % bytes.size());
    Run(bytes);
  }
  return runs;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: %s FOLDER ROUNDS\n", arguments[0]);
    return 2;
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(arguments[1])) {
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  long runs = 0;
  for (const std::filesystem::path& path : files) {
    std::ifstream stream(path, std::ios::binary);
    const Bytes seed{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    runs += RunMutations(seed, std::atol(arguments[2]));
  }
  std::printf("%ld runs from %zu files, %ld passes\n", runs, files.size(), fuzz_passes);
  return files.empty() ? 1 : 0;
}
