// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "app/byte_order.h"
#include "app/crc32.h"
#include "app/framing.h"
#include "check.h"
#include "xorshift.h"

using tflm_zo::Crc32;
using tflm_zo::Frame;
using tflm_zo::FrameDecoder;
using tflm_zo::FrameEncoder;
using tflm_zo::FrameEvent;
using tflm_zo::kFrameOverhead;
using tflm_zo::MaxFrameSizeOnLine;

namespace {

constexpr uint32_t kMaxPayload = 2048;
constexpr uint32_t kMaxOnLine = MaxFrameSizeOnLine(kMaxPayload);

// A stretch of line in memory; refuses what does not fit.
class Wire final : public tflm_zo::ByteSink {
 public:
  bool Write(const uint8_t* data, uint32_t size) override {
    ++writes;
    if (size > room - used) return false;
    std::memcpy(bytes + used, data, size);
    used += size;
    return true;
  }

  void Clear() {
    used = 0;
    writes = 0;
    room = sizeof(bytes);
  }

  uint8_t bytes[2 * kMaxOnLine];
  uint32_t room = sizeof(bytes);
  uint32_t used = 0;
  uint32_t writes = 0;
};

struct Message {
  uint8_t type;
  uint16_t sequence;
  uint32_t size;
  uint8_t payload[kMaxPayload];
};

// Test data is static: a board's stack is small.
Wire wire;
Message message;
Message successor;

bool Send(Wire* to, const Message& what) {
  FrameEncoder encoder(to);
  return encoder.Begin(what.type, what.sequence, what.size) &&
         encoder.Append(what.payload, what.size) && encoder.End();
}

bool Same(const Frame& frame, const Message& expected) {
  return frame.type == expected.type && frame.sequence == expected.sequence &&
         frame.size == expected.size &&
         std::memcmp(frame.payload, expected.payload, expected.size) == 0;
}

// Payloads of the four kinds that COBS treats differently. The Python test makes the same ones.
void Fill(Message* m, Xorshift* random, uint32_t max_size) {
  m->type = static_cast<uint8_t>(random->Next());
  m->sequence = static_cast<uint16_t>(random->Next());
  m->size = random->Below(max_size + 1);
  const uint32_t kind = random->Below(4);
  for (uint32_t i = 0; i < m->size; ++i) {
    const uint32_t r = random->Next();
    switch (kind) {
      case 0:
        m->payload[i] = static_cast<uint8_t>(r >> 8);
        break;
      case 1:
        m->payload[i] = 0;
        break;
      case 2:
        m->payload[i] = static_cast<uint8_t>(1 + (r >> 8) % 255);
        break;
      default:
        m->payload[i] = (r >> 8) % 200 == 0 ? 0 : 0xA5;
    }
  }
}

// A decoder whose buffer lies between two guards.
class Receiver {
 public:
  static constexpr uint32_t kCapacity = kMaxPayload + kFrameOverhead;

  explicit Receiver(uint32_t capacity = kCapacity)
      : decoder(memory_ + kGuard, capacity), capacity_(capacity) {
    std::memset(memory_, kPattern, sizeof(memory_));
  }

  bool GuardsAreIntact() const {
    for (uint32_t i = 0; i < kGuard; ++i) {
      if (memory_[i] != kPattern || memory_[kGuard + capacity_ + i] != kPattern) return false;
    }
    return true;
  }

 private:
  static constexpr uint32_t kGuard = 16;
  static constexpr uint8_t kPattern = 0x5C;
  uint8_t memory_[kGuard + kCapacity + kGuard];

 public:
  FrameDecoder decoder;

 private:
  uint32_t capacity_;
};

struct Tally {
  uint32_t frames = 0;
  uint32_t malformed = 0;
  uint32_t too_long = 0;
  uint32_t checksum = 0;
  uint32_t version = 0;
  uint32_t rejected() const { return malformed + too_long + checksum + version; }
};

// Feeds bytes; counts what is reported, and frames that are none of the two given.
void Feed(FrameDecoder* decoder, const uint8_t* bytes, uint32_t size, const Message* either,
          const Message* other, Tally* tally, uint32_t* wrong) {
  for (uint32_t i = 0; i < size; ++i) {
    switch (decoder->Push(bytes[i])) {
      case FrameEvent::kNone:
        break;
      case FrameEvent::kFrame:
        ++tally->frames;
        if ((either == nullptr || !Same(decoder->frame(), *either)) &&
            (other == nullptr || !Same(decoder->frame(), *other))) {
          ++*wrong;
        }
        break;
      case FrameEvent::kMalformed:
        ++tally->malformed;
        break;
      case FrameEvent::kTooLong:
        ++tally->too_long;
        break;
      case FrameEvent::kChecksum:
        ++tally->checksum;
        break;
      case FrameEvent::kVersion:
        ++tally->version;
        break;
    }
  }
}

// COBS of raw bytes, straight from the definition, to make frames that the encoder would never
// send.
uint32_t StuffRaw(const uint8_t* raw, uint32_t size, uint8_t* out) {
  uint32_t used = 0;
  uint32_t code_at = used++;
  uint8_t code = 1;
  for (uint32_t i = 0; i < size; ++i) {
    if (raw[i] != 0) {
      out[used++] = raw[i];
      ++code;
    }
    if (raw[i] == 0 || code == 0xFF) {
      out[code_at] = code;
      code_at = used++;
      code = 1;
    }
  }
  out[code_at] = code;
  out[used++] = 0;
  return used;
}

FrameEvent Receive(const uint8_t* bytes, uint32_t size) {
  static Receiver receiver;
  for (uint32_t i = 0; i < size; ++i) {
    const FrameEvent event = receiver.decoder.Push(bytes[i]);
    if (event != FrameEvent::kNone) return event;
  }
  return FrameEvent::kNone;
}

}  // namespace

// Made with the Python implementation and checked there too.
TEST(GoldenFrames) {
  static const uint8_t kEmpty[] = {0x00, 0x03, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01,
                                   0x01, 0x05, 0x43, 0xD4, 0xFF, 0x0F, 0x00};
  static const uint8_t kZeros[] = {0x00, 0x03, 0x01, 0x02, 0x03, 0x01, 0x03, 0x01, 0x01,
                                   0x01, 0x01, 0x01, 0x05, 0x12, 0xA4, 0xBE, 0x53, 0x00};
  static const uint8_t kText[] = {0x00, 0x06, 0x01, 0x7F, 0xEF, 0xBE, 0x07, 0x01, 0x01, 0x04, 0x6F,
                                  0x6E, 0x65, 0x08, 0x74, 0x77, 0x6F, 0xD6, 0x93, 0x87, 0x1F, 0x00};
  struct {
    uint8_t type;
    uint16_t sequence;
    const char* payload;
    uint32_t size;
    const uint8_t* on_line;
    uint32_t size_on_line;
  } const golden[] = {
      {1, 0, "", 0, kEmpty, sizeof(kEmpty)},
      {2, 0x0100, "\0\0\0", 3, kZeros, sizeof(kZeros)},
      {0x7F, 0xBEEF, "one\0two", 7, kText, sizeof(kText)},
  };
  for (const auto& g : golden) {
    wire.Clear();
    message.type = g.type;
    message.sequence = g.sequence;
    message.size = g.size;
    std::memcpy(message.payload, g.payload, g.size);
    CHECK(Send(&wire, message));
    if (CHECK_EQ(wire.used, g.size_on_line)) CHECK_BYTES_EQ(wire.bytes, g.on_line, g.size_on_line);
  }
}

// 300 frames of all kinds: the CRC over everything that is sent is the same in the Python test.
TEST(SendsWhatPythonSends) {
  Xorshift random(0x5EED);
  uint32_t crc = 0;
  uint32_t total = 0;
  for (int i = 0; i < 300; ++i) {
    Fill(&message, &random, 700);
    wire.Clear();
    CHECK(Send(&wire, message));
    crc = Crc32(wire.bytes, wire.used, crc);
    total += wire.used;
  }
  CHECK_EQ(total, 112466u);
  CHECK_EQ(crc, 0x6E9370ADu);
}

TEST(RoundTripOfAllSizes) {
  static Receiver receiver;
  Xorshift random(3);
  for (uint32_t size = 0; size <= kMaxPayload; size += size < 800 ? 1 : 52) {
    for (uint32_t kind = 0; kind < 3; ++kind) {
      message.type = static_cast<uint8_t>(size);
      message.sequence = static_cast<uint16_t>(size * 77);
      message.size = size;
      for (uint32_t i = 0; i < size; ++i) {
        const uint8_t byte = static_cast<uint8_t>(random.Next() >> 8);
        message.payload[i] = kind == 0 ? 0 : kind == 1 ? byte : static_cast<uint8_t>(byte | 1);
      }
      wire.Clear();
      CHECK(Send(&wire, message));
      CHECK(wire.used <= MaxFrameSizeOnLine(size));
      CHECK(wire.writes <= 1 + wire.used / 64);
      CHECK(std::memchr(wire.bytes + 1, 0, wire.used - 2) == nullptr);
      Tally tally;
      uint32_t wrong = 0;
      Feed(&receiver.decoder, wire.bytes, wire.used, &message, nullptr, &tally, &wrong);
      CHECK_EQ(tally.frames, 1u);
      CHECK_EQ(tally.rejected(), 0u);
      CHECK_EQ(wrong, 0u);
    }
  }
  CHECK(receiver.GuardsAreIntact());
}

TEST(PayloadInPiecesGivesTheSameFrame) {
  static Wire pieces;
  Xorshift random(4);
  for (int round = 0; round < 200; ++round) {
    Fill(&message, &random, 900);
    wire.Clear();
    CHECK(Send(&wire, message));
    pieces.Clear();
    FrameEncoder encoder(&pieces);
    CHECK(encoder.Begin(message.type, message.sequence, message.size));
    for (uint32_t sent = 0; sent < message.size;) {
      const uint32_t size = 1 + random.Below(message.size - sent);
      CHECK(encoder.Append(message.payload + sent, size));
      sent += size;
    }
    CHECK(encoder.End());
    if (CHECK_EQ(pieces.used, wire.used)) CHECK_BYTES_EQ(pieces.bytes, wire.bytes, wire.used);
  }
}

TEST(EncoderRefusesWrongUse) {
  const uint8_t byte[4] = {1, 2, 3, 4};
  wire.Clear();
  FrameEncoder encoder(&wire);
  CHECK(!encoder.Append(byte, 1));
  CHECK(!encoder.End());
  CHECK(encoder.Begin(1, 1, 3));
  CHECK(!encoder.Append(byte, 4));
  CHECK(!encoder.End());
  CHECK(encoder.Begin(1, 1, 3));
  CHECK(encoder.Append(byte, 2));
  CHECK(!encoder.End());
  CHECK_EQ(wire.used, 0u);
  // A failure leaves nothing behind.
  CHECK(encoder.Begin(1, 1, 3));
  CHECK(encoder.Append(byte, 3));
  CHECK(encoder.End());
  CHECK(!encoder.End());
}

TEST(EncoderReportsAFullSink) {
  Xorshift random(5);
  message.type = 9;
  message.sequence = 9;
  message.size = 1000;
  for (uint32_t i = 0; i < message.size; ++i) {
    message.payload[i] = static_cast<uint8_t>(random.Next() >> 8);
  }
  wire.Clear();
  CHECK(Send(&wire, message));
  const uint32_t needed = wire.used;
  for (uint32_t room = 0; room <= needed; ++room) {
    wire.Clear();
    wire.room = room;
    CHECK_EQ(Send(&wire, message), room == needed);
  }
}

// An abandoned frame, or noise before the first one, costs nothing but itself.
TEST(ResynchronizesAtTheNextFrame) {
  Xorshift random(6);
  for (int round = 0; round < 300; ++round) {
    static Receiver receiver;
    Fill(&message, &random, 300);
    wire.Clear();
    CHECK(Send(&wire, message));
    const uint32_t whole = wire.used;
    wire.used = random.Below(whole);
    Fill(&successor, &random, 300);
    CHECK(Send(&wire, successor));
    Tally tally;
    uint32_t wrong = 0;
    Feed(&receiver.decoder, wire.bytes, wire.used, &successor, nullptr, &tally, &wrong);
    // Without its last delimiter the first frame is still whole: the next one begins with a
    // delimiter.
    CHECK(tally.frames >= 1);
    CHECK(tally.rejected() <= 1);
    CHECK(wrong == 0 || (wrong == 1 && tally.frames == 2));
  }
}

TEST(EverySingleByteErrorIsSeen) {
  Xorshift random(7);
  Fill(&message, &random, 40);
  wire.Clear();
  CHECK(Send(&wire, message));
  for (uint32_t at = 0; at < wire.used; ++at) {
    const uint8_t right = wire.bytes[at];
    for (uint32_t error = 1; error < 256; ++error) {
      wire.bytes[at] = static_cast<uint8_t>(right ^ error);
      static Receiver receiver;
      Tally tally;
      uint32_t wrong = 0;
      Feed(&receiver.decoder, wire.bytes, wire.used, &message, nullptr, &tally, &wrong);
      const uint8_t end = 0;
      Feed(&receiver.decoder, &end, 1, &message, nullptr, &tally, &wrong);
      CHECK_EQ(wrong, 0u);
      CHECK_EQ(tally.frames, 0u);
      CHECK(tally.rejected() >= 1);
    }
    wire.bytes[at] = right;
  }
}

TEST(NamesTheReason) {
  uint8_t raw[kFrameOverhead + 8] = {};
  uint8_t line[64];
  const auto seal = [&raw](uint32_t size) {
    tflm_zo::StoreLe32(raw + size, Crc32(raw, size));
    return size + 4;
  };
  raw[0] = tflm_zo::kFrameVersion;
  raw[1] = 5;
  tflm_zo::StoreLe32(raw + 4, 8);
  CHECK_EQ(Receive(line, StuffRaw(raw, seal(16), line)), FrameEvent::kFrame);
  // Intact, but of another version.
  raw[0] = tflm_zo::kFrameVersion + 1;
  CHECK_EQ(Receive(line, StuffRaw(raw, seal(16), line)), FrameEvent::kVersion);
  raw[0] = tflm_zo::kFrameVersion;
  // Intact, but the size in the header is not that of the payload.
  for (const uint32_t size : {0u, 7u, 9u, 0x10008u, 0xFFFFFFFFu}) {
    tflm_zo::StoreLe32(raw + 4, size);
    CHECK_EQ(Receive(line, StuffRaw(raw, seal(16), line)), FrameEvent::kMalformed);
  }
  tflm_zo::StoreLe32(raw + 4, 8);
  const uint32_t size = seal(16);
  raw[9] ^= 1;
  CHECK_EQ(Receive(line, StuffRaw(raw, size, line)), FrameEvent::kChecksum);
  // Too short for header and CRC, though the CRC is right.
  for (uint32_t short_size = 0; short_size < 8; ++short_size) {
    CHECK_EQ(Receive(line, StuffRaw(raw, seal(short_size), line)), FrameEvent::kMalformed);
  }
  // A code byte that announces more than comes.
  const uint8_t cut[] = {200, 1, 2, 3, 0};
  CHECK_EQ(Receive(cut, sizeof(cut)), FrameEvent::kMalformed);
  // Delimiters alone are nothing.
  const uint8_t idle[16] = {};
  CHECK_EQ(Receive(idle, sizeof(idle)), FrameEvent::kNone);
}

TEST(KeepsToItsBuffer) {
  static Receiver receiver(100);
  const uint32_t fits = 100 - kFrameOverhead;
  Xorshift random(8);
  message.type = 1;
  message.sequence = 2;
  for (uint8_t& byte : message.payload) byte = static_cast<uint8_t>(random.Next() >> 8);
  for (uint32_t size = 0; size <= kMaxPayload; size += size < fits + 20 ? 1 : 97) {
    message.size = size;
    wire.Clear();
    CHECK(Send(&wire, message));
    Tally tally;
    uint32_t wrong = 0;
    Feed(&receiver.decoder, wire.bytes, wire.used, &message, nullptr, &tally, &wrong);
    CHECK_EQ(tally.frames, size <= fits ? 1u : 0u);
    CHECK_EQ(tally.too_long, size <= fits ? 0u : 1u);
    CHECK_EQ(wrong, 0u);
  }
  // A line that never pauses, with and without zeros.
  for (uint32_t i = 0; i < 100000; ++i) {
    receiver.decoder.Push(static_cast<uint8_t>(1 + random.Below(255)));
  }
  for (uint32_t i = 0; i < 100000; ++i) {
    CHECK(receiver.decoder.Push(static_cast<uint8_t>(random.Next() >> 8)) != FrameEvent::kFrame);
  }
  // None of that is in the way of a frame that fits.
  message.size = fits;
  wire.Clear();
  CHECK(Send(&wire, message));
  Tally tally;
  uint32_t wrong = 0;
  Feed(&receiver.decoder, wire.bytes, wire.used, &message, nullptr, &tally, &wrong);
  CHECK_EQ(tally.frames, 1u);
  CHECK_EQ(wrong, 0u);
  CHECK(receiver.GuardsAreIntact());
}

// 10,000 frames, each damaged in one to three ways and followed by an intact one: nothing wrong is
// accepted, and every intact successor arrives.
TEST(DamagedFrames) {
  static Receiver receiver;
  static uint8_t line[4 * kMaxOnLine];
  Xorshift random(0xDA3A6E);
  Tally damaged;
  uint32_t wrong = 0;
  uint32_t lost = 0;
  uint32_t altered_bytes = 0;
  for (int round = 0; round < 10000; ++round) {
    Fill(&message, &random, round % 16 == 0 ? 700 : 60);
    wire.Clear();
    Send(&wire, message);
    std::memcpy(line, wire.bytes, wire.used);
    uint32_t size = wire.used;
    for (uint32_t times = 1 + random.Below(3); times != 0; --times) {
      const uint32_t at = random.Below(size);
      const uint32_t span = 1 + random.Below(size - at);
      switch (random.Below(8)) {
        case 0:  // a bit flips
          line[at] = static_cast<uint8_t>(line[at] ^ (1u << random.Below(8)));
          break;
        case 1:  // a byte changes
          line[at] = static_cast<uint8_t>(line[at] ^ (1 + random.Below(255)));
          break;
        case 2:  // a byte is lost
          std::memmove(line + at, line + at + 1, size - at - 1);
          if (size > 1) --size;
          break;
        case 3:  // a byte comes from nowhere
          std::memmove(line + at + 1, line + at, size - at);
          line[at] = static_cast<uint8_t>(random.Next() >> 8);
          ++size;
          break;
        case 4:  // the rest is lost
          size = at + 1;
          break;
        case 5:  // a stretch comes twice
          std::memmove(line + at + span, line + at, size - at);
          size += span;
          break;
        case 6:  // a stretch becomes noise
          for (uint32_t i = at; i < at + span; ++i)
            line[i] = static_cast<uint8_t>(random.Next() >> 8);
          break;
        default:  // a stretch is filled with one value, often the delimiter
          std::memset(line + at, random.Below(2) == 0 ? 0 : 0xFF, span);
      }
      if (size > sizeof(line) / 4) size = sizeof(line) / 4;
    }
    altered_bytes += size;
    Feed(&receiver.decoder, line, size, &message, nullptr, &damaged, &wrong);

    Fill(&successor, &random, 60);
    wire.Clear();
    Send(&wire, successor);
    Tally intact;
    uint32_t foreign = 0;
    // The successor's first delimiter may complete the damaged frame, if only its end was missing.
    Feed(&receiver.decoder, wire.bytes, 1, &message, nullptr, &damaged, &wrong);
    Feed(&receiver.decoder, wire.bytes + 1, wire.used - 1, &successor, nullptr, &intact, &foreign);
    if (intact.frames != 1 || foreign != 0) ++lost;
  }
  CHECK_EQ(wrong, 0u);
  CHECK_EQ(lost, 0u);
  CHECK(receiver.GuardsAreIntact());
  // The damage is real: most frames are gone, and every reason but the version occurs.
  CHECK(damaged.frames < 1500);
  CHECK(damaged.checksum > 2000);
  CHECK(damaged.malformed > 1000);
  check::Line out;
  (out << "        damaged frames: " << damaged.frames << " arrived unharmed, " << damaged.checksum
       << " failed the checksum, " << damaged.malformed << " malformed, " << damaged.version
       << " of another version; " << altered_bytes << " bytes")
      .Print();
}

// 10,000 stretches of noise with delimiters between them.
TEST(Noise) {
  static Receiver receiver;
  Xorshift random(0xA015E);
  Tally tally;
  uint32_t wrong = 0;
  for (int round = 0; round < 10000; ++round) {
    const uint32_t size = 1 + random.Below(120);
    const bool header_first = random.Below(2) == 0;
    uint8_t noise[128];
    for (uint32_t i = 0; i < size; ++i) noise[i] = static_cast<uint8_t>(random.Next() >> 8);
    // Half of them start as a frame does, so that they get past the first hurdle.
    if (header_first) {
      noise[0] = static_cast<uint8_t>(size);
      noise[1 % size] = tflm_zo::kFrameVersion;
    }
    noise[size] = 0;
    Feed(&receiver.decoder, noise, size + 1, nullptr, nullptr, &tally, &wrong);
  }
  CHECK_EQ(tally.frames, 0u);
  CHECK_EQ(wrong, 0u);
  CHECK(tally.rejected() >= 9000);
  CHECK(receiver.GuardsAreIntact());
}

CHECK_MAIN()
