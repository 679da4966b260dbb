// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "app/checkpoint.h"
#include "check.h"
#include "sim_flash.h"
#include "xorshift.h"

using tflm_zo::CheckpointInfo;
using tflm_zo::CheckpointStatus;
using tflm_zo::CheckpointStore;
using tflm_zo::ConstSegment;
using tflm_zo::kCheckpointHeaderSize;
using tflm_zo::Segment;

namespace {

constexpr uint64_t kModel = 0x0123456789ABCDEFull;
constexpr uint32_t kMaxPayload = 4200;
constexpr uint32_t kSegments = 4;

// Three pages a slot of which a payload of 300 bytes needs all: few operations, so every one of
// them can be cut.
constexpr Geometry kSmall = {128, 4, 6};
// As the nRF52840 has it, three pages a slot.
constexpr Geometry kNrf52840 = {4096, 4, 6};
constexpr uint32_t kSmallPayload = 300;
constexpr uint32_t kNrf52840Payload = 4200;

// Memory as an app has it: pieces with any address and size, one of them empty.
struct Memory {
  uint8_t bytes[kMaxPayload + 16];
  Segment pieces[kSegments];
  ConstSegment const_pieces[kSegments];

  void Divide(uint32_t size) {
    const uint32_t first = size / 3 | 1;
    const uint32_t second = size / 2 - first;
    const uint32_t sizes[kSegments] = {first, 0, second, size - first - second};
    uint8_t* at = bytes + 1;
    for (uint32_t i = 0; i < kSegments; ++i) {
      pieces[i] = {sizes[i] == 0 ? nullptr : at, sizes[i]};
      const_pieces[i] = {pieces[i].data, sizes[i]};
      at += sizes[i] + 3;
    }
  }
  // What the `generation`-th save holds.
  void Fill(uint32_t generation) {
    Xorshift random(generation * 2654435761u + 1);
    for (const Segment& piece : pieces) {
      uint8_t* data = static_cast<uint8_t*>(piece.data);
      for (uint32_t i = 0; i < piece.size; ++i) data[i] = static_cast<uint8_t>(random.Next() >> 8);
    }
  }

  bool Holds(uint32_t generation) const {
    Xorshift random(generation * 2654435761u + 1);
    for (const Segment& piece : pieces) {
      const uint8_t* data = static_cast<const uint8_t*>(piece.data);
      for (uint32_t i = 0; i < piece.size; ++i) {
        if (data[i] != static_cast<uint8_t>(random.Next() >> 8)) return false;
      }
    }
    return true;
  }
};

// Shared by all tests, for the sake of a board's RAM.
SimFlash flash;
SimFlash trial;
Memory memory;

void Start(const Geometry& geometry, uint32_t payload_size) {
  flash.Renew(geometry);
  memory.Divide(payload_size);
}

CheckpointStatus Save(SimFlash* to, uint32_t generation, uint64_t model = kModel) {
  memory.Fill(generation);
  return CheckpointStore(to).Save(model, memory.const_pieces, kSegments);
}

CheckpointStatus Load(SimFlash* from, uint64_t model = kModel) {
  std::memset(memory.bytes, 0x33, sizeof(memory.bytes));
  return CheckpointStore(from).Load(model, memory.pieces, kSegments);
}

// No byte has been written since Load began.
bool MemoryIsUntouched() {
  for (const uint8_t byte : memory.bytes) {
    if (byte != 0x33) return false;
  }
  return true;
}

constexpr Cut kCuts[] = {Cut::kBefore, Cut::kRandom, Cut::kHalf, Cut::kAfter};

struct Campaign {
  uint32_t cuts = 0;
  uint32_t found_new = 0;   // the interrupted save had got through
  uint32_t operations = 0;  // of one save
};

// `cycles` saves. Each is first interrupted at each of its operations in each of the ways given;
// after every interruption the older or the newer state must load, a save from there is interrupted
// once more, and the one after that must succeed.
Campaign CutEveryOperation(uint32_t cycles, const Cut* cuts, uint32_t cut_kinds) {
  Campaign result;
  Xorshift random(0xC07);
  uint32_t generation = 1;
  CHECK_EQ(Save(&flash, generation), CheckpointStatus::kOk);
  for (uint32_t cycle = 0; cycle < cycles; ++cycle) {
    const uint32_t old_one = generation;
    const uint32_t new_one = generation + 1;
    for (uint32_t kind = 0; kind < cut_kinds; ++kind) {
      for (uint32_t operation = 0;; ++operation) {
        trial = flash;
        trial.CutPower(operation, cuts[kind], random.Next());
        const CheckpointStatus status = Save(&trial, new_one);
        if (trial.powered()) {
          // Past the last operation: nothing was cut.
          CHECK_EQ(status, CheckpointStatus::kOk);
          CHECK_EQ(Load(&trial), CheckpointStatus::kOk);
          CHECK(memory.Holds(new_one));
          result.operations = operation;
          break;
        }
        ++result.cuts;
        CHECK_EQ(status, CheckpointStatus::kFlashFailure);
        trial.PowerUp();
        if (!CHECK_EQ(Load(&trial), CheckpointStatus::kOk)) return result;
        const bool is_new = memory.Holds(new_one);
        CHECK(is_new || memory.Holds(old_one));
        if (is_new) ++result.found_new;

        trial.CutPower(random.Below(operation + 4), cuts[random.Below(cut_kinds)], random.Next());
        Save(&trial, new_one + 1);
        const bool interrupted = !trial.powered();
        trial.PowerUp();
        CHECK_EQ(Load(&trial), CheckpointStatus::kOk);
        CHECK(memory.Holds(new_one + 1) ||
              (interrupted && memory.Holds(is_new ? new_one : old_one)));

        CHECK_EQ(Save(&trial, new_one + 2), CheckpointStatus::kOk);
        CHECK_EQ(Load(&trial), CheckpointStatus::kOk);
        CHECK(memory.Holds(new_one + 2));
        CHECK_EQ(trial.violations, 0u);
      }
    }
    CHECK_EQ(Save(&flash, new_one), CheckpointStatus::kOk);
    generation = new_one;
  }
  CHECK_EQ(flash.violations, 0u);
  return result;
}

void Print(const char* what, const Campaign& campaign) {
  check::Line out;
  (out << "        " << what << ": " << campaign.cuts << " power cuts, " << campaign.operations
       << " flash operations a save, new state found " << campaign.found_new << " times")
      .Print();
}

}  // namespace

TEST(SaveAndLoad) {
  Start(kNrf52840, kNrf52840Payload);
  CHECK_EQ(Load(&flash), CheckpointStatus::kNone);
  CHECK(MemoryIsUntouched());
  CheckpointInfo info = {};
  CHECK_EQ(CheckpointStore(&flash).Newest(&info), CheckpointStatus::kNone);
  for (uint32_t generation = 1; generation <= 5; ++generation) {
    CHECK_EQ(Save(&flash, generation), CheckpointStatus::kOk);
    CHECK_EQ(Load(&flash), CheckpointStatus::kOk);
    CHECK(memory.Holds(generation));
    CHECK_EQ(CheckpointStore(&flash).Newest(&info), CheckpointStatus::kOk);
    CHECK_EQ(info.sequence, generation);
    CHECK_EQ(info.model_hash, kModel);
    CHECK_EQ(info.payload_size, kNrf52840Payload);
  }
  CHECK_EQ(flash.violations, 0u);
}

TEST(EverySizeUpToTheCapacity) {
  Start(kSmall, kSmallPayload);
  static uint8_t saved[3 * 128];
  static uint8_t loaded[3 * 128];
  Xorshift random(1);
  for (uint8_t& byte : saved) byte = static_cast<uint8_t>(random.Next() >> 8);
  CheckpointStore store(&flash);
  CHECK_EQ(store.capacity(), 3u * 128 - kCheckpointHeaderSize);
  for (uint32_t size = 0; size <= store.capacity(); ++size) {
    const ConstSegment from = {saved, size};
    CHECK_EQ(store.Save(kModel, &from, 1), CheckpointStatus::kOk);
    std::memset(loaded, 0, sizeof(loaded));
    const Segment to = {loaded, size};
    CHECK_EQ(store.Load(kModel, &to, 1), CheckpointStatus::kOk);
    CHECK_BYTES_EQ(loaded, saved, size);
    const Segment longer = {loaded, size + 1};
    CHECK_EQ(store.Load(kModel, &longer, 1), CheckpointStatus::kOtherSize);
  }
  const uint32_t operations = flash.operations;
  const ConstSegment too_large[2] = {{saved, store.capacity()}, {saved, 1}};
  CHECK_EQ(store.Save(kModel, too_large, 2), CheckpointStatus::kTooLarge);
  const ConstSegment wraps[2] = {{saved, 100}, {saved, 0xFFFFFFFFu}};
  CHECK_EQ(store.Save(kModel, wraps, 2), CheckpointStatus::kTooLarge);
  CHECK_EQ(flash.operations, operations);
  CHECK_EQ(flash.violations, 0u);
}

// The header's last granule exists in flash last of all; the page sizes and granules of other
// makers.
TEST(OtherGeometries) {
  for (const Geometry& geometry :
       {Geometry{64, 4, 12}, Geometry{192, 8, 4}, Geometry{256, 16, 5}, Geometry{1024, 32, 2}}) {
    Start(geometry, kSmallPayload);
    const Campaign campaign = CutEveryOperation(2, kCuts, 4);
    CHECK_EQ(campaign.cuts, 2 * 4 * campaign.operations);
    CHECK(campaign.found_new > 0);
  }
}

TEST(RefusesUnusableGeometries) {
  for (const Geometry& geometry :
       {Geometry{4096, 4, 1}, Geometry{96, 4, 6}, Geometry{4096, 64, 4}, Geometry{4096, 12, 4},
        Geometry{0, 4, 4}, Geometry{4096, 0, 4}}) {
    Start(geometry, kSmallPayload);
    CheckpointInfo info;
    CHECK_EQ(CheckpointStore(&flash).capacity(), 0u);
    CHECK_EQ(Save(&flash, 1), CheckpointStatus::kBadGeometry);
    CHECK_EQ(Load(&flash), CheckpointStatus::kBadGeometry);
    CHECK_EQ(CheckpointStore(&flash).Newest(&info), CheckpointStatus::kBadGeometry);
    CHECK_EQ(CheckpointStore(&flash).Clear(), CheckpointStatus::kBadGeometry);
    CHECK_EQ(flash.operations + flash.violations, 0u);
  }
}

TEST(PowerCutAtEveryOperationOf50Saves) {
  Start(kSmall, kSmallPayload);
  const Campaign campaign = CutEveryOperation(50, kCuts, 4);
  // Three erases, 75 words of payload, 8 of header.
  CHECK_EQ(campaign.operations, 3u + 75 + 8);
  CHECK_EQ(campaign.cuts, 50u * 4 * 86);
  CHECK(campaign.found_new >= 50);
  Print("small pages", campaign);
}

TEST(PowerCutAtEveryOperationNrf52840) {
  Start(kNrf52840, kNrf52840Payload);
  const Cut cut = Cut::kRandom;
  const Campaign campaign = CutEveryOperation(2, &cut, 1);
  CHECK_EQ(campaign.operations, 2u + 1050 + 8);
  Print("nRF52840", campaign);
}

// Nothing was ever completed: then there is no checkpoint, or the new one. Flash may hold anything
// before.
TEST(PowerCutInTheFirstSave) {
  Xorshift random(9);
  for (const int content : {0xFF, 0x00, 0x54, -1}) {
    Start(kSmall, kSmallPayload);
    if (content >= 0 && content != 0xFF) flash.FillWith(static_cast<uint8_t>(content));
    if (content < 0) {
      flash.FillWith(0);
      for (uint32_t i = 0; i < flash.size(); ++i)
        flash.bytes()[i] = static_cast<uint8_t>(random.Next() >> 8);
    }
    for (const Cut cut : kCuts) {
      for (uint32_t operation = 0;; ++operation) {
        trial = flash;
        trial.CutPower(operation, cut, random.Next());
        const CheckpointStatus status = Save(&trial, 1);
        const bool interrupted = !trial.powered();
        trial.PowerUp();
        const CheckpointStatus loaded = Load(&trial);
        if (loaded == CheckpointStatus::kOk) {
          CHECK(memory.Holds(1));
        } else {
          CHECK(interrupted);
          CHECK_EQ(loaded, CheckpointStatus::kNone);
          CHECK(MemoryIsUntouched());
        }
        if (!interrupted) {
          CHECK_EQ(status, CheckpointStatus::kOk);
          break;
        }
      }
    }
    CHECK_EQ(trial.violations, 0u);
  }
}

// A long life with a bad supply: every other save is cut somewhere, and every state follows from
// the one before.
TEST(ManyPowerCutsInARow) {
  Start(kSmall, kSmallPayload);
  Xorshift random(10);
  uint32_t current = 1;
  uint32_t interrupted = 0;
  CHECK_EQ(Save(&flash, current), CheckpointStatus::kOk);
  for (uint32_t generation = 2; generation < 3000; ++generation) {
    flash.CutPower(random.Below(170), kCuts[random.Below(4)], random.Next());
    const CheckpointStatus status = Save(&flash, generation);
    const bool completed = status == CheckpointStatus::kOk;
    if (!completed) ++interrupted;
    flash.PowerUp();
    CHECK_EQ(Load(&flash), CheckpointStatus::kOk);
    if (memory.Holds(generation)) {
      current = generation;
    } else {
      CHECK(!completed && memory.Holds(current));
    }
  }
  CHECK(interrupted > 1000);
  CHECK_EQ(flash.violations, 0u);
}

TEST(PowerCutWhileClearing) {
  Start(kSmall, kSmallPayload);
  Xorshift random(11);
  for (uint32_t saves = 1; saves <= 4; ++saves) {
    CHECK_EQ(Save(&flash, saves), CheckpointStatus::kOk);
    for (const Cut cut : kCuts) {
      for (uint32_t operation = 0; operation <= 2; ++operation) {
        trial = flash;
        trial.CutPower(operation, cut, random.Next());
        const CheckpointStatus status = CheckpointStore(&trial).Clear();
        const bool interrupted = !trial.powered();
        CHECK_EQ(interrupted, operation < 2);
        trial.PowerUp();
        const CheckpointStatus loaded = Load(&trial);
        if (interrupted) {
          CHECK(loaded == CheckpointStatus::kNone || memory.Holds(saves));
        } else {
          CHECK_EQ(status, CheckpointStatus::kOk);
          CHECK_EQ(loaded, CheckpointStatus::kNone);
        }
        CHECK_EQ(Save(&trial, 99), CheckpointStatus::kOk);
        CHECK_EQ(Load(&trial), CheckpointStatus::kOk);
        CHECK(memory.Holds(99));
      }
    }
  }
  CHECK_EQ(trial.violations, 0u);
}

// Any bit of the newest checkpoint that flips makes the older one count; with both damaged there is
// none, and memory stays as it was.
TEST(EveryFlippedBitIsSeen) {
  Start(kSmall, kSmallPayload);
  CHECK_EQ(Save(&flash, 1), CheckpointStatus::kOk);
  CHECK_EQ(Save(&flash, 2), CheckpointStatus::kOk);
  uint8_t* const older = flash.bytes();
  uint8_t* const newer = flash.bytes() + 3 * 128;
  for (uint32_t bit = 0; bit < 8 * (kCheckpointHeaderSize + kSmallPayload); ++bit) {
    const uint8_t mask = static_cast<uint8_t>(1u << bit % 8);
    newer[bit / 8] ^= mask;
    CHECK_EQ(Load(&flash), CheckpointStatus::kOk);
    CHECK(memory.Holds(1));
    older[bit / 8] ^= mask;
    CHECK_EQ(Load(&flash), CheckpointStatus::kNone);
    CHECK(MemoryIsUntouched());
    older[bit / 8] ^= mask;
    newer[bit / 8] ^= mask;
  }
  CHECK_EQ(Load(&flash), CheckpointStatus::kOk);
  CHECK(memory.Holds(2));
}

TEST(OtherModelsAreLeftAlone) {
  Start(kSmall, kSmallPayload);
  CHECK_EQ(Save(&flash, 1), CheckpointStatus::kOk);
  for (uint32_t bit = 0; bit < 64; ++bit) {
    CHECK_EQ(Load(&flash, kModel ^ (1ull << bit)), CheckpointStatus::kOtherModel);
    CHECK(MemoryIsUntouched());
  }
  CHECK_EQ(Save(&flash, 2, kModel + 1), CheckpointStatus::kOk);
  CHECK_EQ(Load(&flash), CheckpointStatus::kOtherModel);
  CHECK_EQ(Load(&flash, kModel + 1), CheckpointStatus::kOk);
  CHECK(memory.Holds(2));
}

// A cell that cannot be cleared any more: the save fails and says so, and the older checkpoint
// counts.
TEST(WornCells) {
  Start(kSmall, kSmallPayload);
  CHECK_EQ(Save(&flash, 1), CheckpointStatus::kOk);
  CHECK_EQ(Save(&flash, 2), CheckpointStatus::kOk);
  uint32_t failures = 0;
  for (uint32_t at = 0; at < kCheckpointHeaderSize + kSmallPayload; ++at) {
    trial = flash;
    trial.worn_address = at;
    trial.worn_bits = 0xFF;
    const CheckpointStatus status = Save(&trial, 3);
    CHECK_EQ(Load(&trial), CheckpointStatus::kOk);
    if (status == CheckpointStatus::kOk) {
      CHECK(memory.Holds(3));  // all bits of that byte are ones anyway
    } else {
      ++failures;
      CHECK_EQ(status, CheckpointStatus::kFlashFailure);
      CHECK(memory.Holds(2));
    }
  }
  CHECK(failures > kSmallPayload);
}

// A read that fails must not be mistaken for an empty slot: a save would erase the newest
// checkpoint.
TEST(FailingReads) {
  Start(kSmall, kSmallPayload);
  CHECK_EQ(Save(&flash, 1), CheckpointStatus::kOk);
  CHECK_EQ(Save(&flash, 2), CheckpointStatus::kOk);
  bool all_reads_failed_once = false;
  for (uint32_t read = 0; !all_reads_failed_once; ++read) {
    trial = flash;
    trial.failing_read = read;
    const CheckpointStatus status = Save(&trial, 3);
    all_reads_failed_once = trial.failing_read != SimFlash::kNever;
    trial.failing_read = SimFlash::kNever;
    CHECK_EQ(status,
             all_reads_failed_once ? CheckpointStatus::kOk : CheckpointStatus::kFlashFailure);
    CHECK_EQ(Load(&trial), CheckpointStatus::kOk);
    // The last read only confirms what is there already.
    CHECK(memory.Holds(2) || memory.Holds(3));
    CHECK(!memory.Holds(2) || status != CheckpointStatus::kOk);

    trial.failing_read = read;
    CheckpointInfo info;
    const CheckpointStatus newest = CheckpointStore(&trial).Newest(&info);
    CHECK_EQ(newest, trial.failing_read == SimFlash::kNever ? CheckpointStatus::kFlashFailure
                                                            : CheckpointStatus::kOk);
    trial.failing_read = read;
    const uint32_t operations = trial.operations;
    const CheckpointStatus cleared = CheckpointStore(&trial).Clear();
    CHECK_EQ(cleared, trial.failing_read == SimFlash::kNever ? CheckpointStatus::kFlashFailure
                                                             : CheckpointStatus::kOk);
    CHECK_EQ(trial.operations - operations, cleared == CheckpointStatus::kOk ? 2u : 0u);
  }
}

TEST(LoadWithFailingReads) {
  Start(kSmall, kSmallPayload);
  CHECK_EQ(Save(&flash, 1), CheckpointStatus::kOk);
  CHECK_EQ(Save(&flash, 2), CheckpointStatus::kOk);
  // Two slots: a header each, and five chunks of payload each.
  constexpr uint32_t kReadsOfTheCheck = 2 * (1 + 5);
  for (uint32_t read = 0;; ++read) {
    flash.failing_read = read;
    const CheckpointStatus status = Load(&flash);
    if (flash.failing_read != SimFlash::kNever) {
      CHECK_EQ(status, CheckpointStatus::kOk);
      CHECK(memory.Holds(2));
      CHECK_EQ(read, kReadsOfTheCheck + 1 + 3);
      break;
    }
    CHECK_EQ(status, CheckpointStatus::kFlashFailure);
    if (read <= kReadsOfTheCheck) CHECK(MemoryIsUntouched());
  }
}

TEST(FailingEraseOrWrite) {
  Start(kSmall, kSmallPayload);
  CHECK_EQ(Save(&flash, 1), CheckpointStatus::kOk);
  CHECK_EQ(Save(&flash, 2), CheckpointStatus::kOk);
  for (uint32_t operation = 0; operation <= 86; ++operation) {
    trial = flash;
    trial.failing_operation = operation;
    CHECK_EQ(Save(&trial, 3),
             operation < 86 ? CheckpointStatus::kFlashFailure : CheckpointStatus::kOk);
    trial.failing_operation = SimFlash::kNever;
    CHECK_EQ(Load(&trial), CheckpointStatus::kOk);
    CHECK(memory.Holds(operation < 86 ? 2 : 3));
    CHECK_EQ(Save(&trial, 4), CheckpointStatus::kOk);
    CHECK_EQ(Load(&trial), CheckpointStatus::kOk);
    CHECK(memory.Holds(4));
    CHECK_EQ(trial.violations, 0u);
  }
}

// One erase of every page in use per two saves: 10,000 cycles last for 20,000 saves.
TEST(Wear) {
  Start({128, 4, 8}, kSmallPayload);
  for (uint32_t generation = 1; generation <= 50; ++generation) {
    CHECK_EQ(Save(&flash, generation), CheckpointStatus::kOk);
    CHECK_EQ(Load(&flash), CheckpointStatus::kOk);
  }
  // Slots of four pages, of which the payload needs three.
  for (uint32_t page = 0; page < 8; ++page)
    CHECK_EQ(flash.erasures[page], page % 4 == 3 ? 0u : 25u);
}

TEST(EveryStatusHasItsMessage) {
  for (int i = 0; i <= static_cast<int>(CheckpointStatus::kFlashFailure); ++i) {
    const char* message = tflm_zo::CheckpointStatusMessage(static_cast<CheckpointStatus>(i));
    CHECK(message[0] != '\0');
    for (int j = 0; j < i; ++j) {
      CHECK(std::strcmp(message,
                        tflm_zo::CheckpointStatusMessage(static_cast<CheckpointStatus>(j))) != 0);
    }
  }
}

CHECK_MAIN()
