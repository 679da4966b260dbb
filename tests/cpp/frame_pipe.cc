// SPDX-License-Identifier: Apache-2.0
//
// The frame layer as a program, for comparison with the Python implementation.
//
//   frame_pipe decode CAPACITY   bytes of a line in, one text line out for every event
//   frame_pipe encode            text lines "frame TYPE SEQUENCE HEX" in, bytes of a line out
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "app/framing.h"

namespace {

class StandardOutput final : public tflm_zo::ByteSink {
 public:
  bool Write(const uint8_t* data, uint32_t size) override {
    return std::fwrite(data, 1, size, stdout) == size;
  }
};

int Decode(uint32_t capacity) {
  using tflm_zo::FrameEvent;
  std::vector<uint8_t> buffer(capacity);
  tflm_zo::FrameDecoder decoder(buffer.data(), capacity);
  for (int byte = std::getchar(); byte != EOF; byte = std::getchar()) {
    switch (decoder.Push(static_cast<uint8_t>(byte))) {
      case FrameEvent::kNone:
        break;
      case FrameEvent::kFrame: {
        const tflm_zo::Frame& frame = decoder.frame();
        std::printf("frame %d %d ", frame.type, frame.sequence);
        for (uint32_t i = 0; i < frame.size; ++i) std::printf("%02x", frame.payload[i]);
        std::printf("\n");
        break;
      }
      case FrameEvent::kMalformed:
        std::puts("malformed");
        break;
      case FrameEvent::kTooLong:
        std::puts("too long");
        break;
      case FrameEvent::kChecksum:
        std::puts("checksum");
        break;
      case FrameEvent::kVersion:
        std::puts("version");
        break;
    }
  }
  return 0;
}

int Encode() {
  StandardOutput output;
  tflm_zo::FrameEncoder encoder(&output);
  std::vector<char> line(1 << 16);
  while (std::fgets(line.data(), static_cast<int>(line.size()), stdin) != nullptr) {
    unsigned type;
    unsigned sequence;
    int hex_at = 0;
    if (std::sscanf(line.data(), "frame %u %u %n", &type, &sequence, &hex_at) != 2) return 2;
    std::vector<uint8_t> payload;
    const char* hex = line.data() + hex_at;
    for (; hex[0] != '\0' && hex[1] != '\0'; hex += 2) {
      payload.push_back(static_cast<uint8_t>(std::stoi(std::string(hex, 2), nullptr, 16)));
    }
    const uint32_t size = static_cast<uint32_t>(payload.size());
    if (!encoder.Begin(static_cast<uint8_t>(type), static_cast<uint16_t>(sequence), size) ||
        !encoder.Append(payload.data(), size) || !encoder.End()) {
      return 3;
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "decode") == 0) {
    return Decode(static_cast<uint32_t>(std::strtoul(argv[2], nullptr, 10)));
  }
  if (argc == 2 && std::strcmp(argv[1], "encode") == 0) return Encode();
  std::fprintf(stderr, "usage: frame_pipe decode CAPACITY | frame_pipe encode\n");
  return 2;
}
