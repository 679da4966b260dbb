// SPDX-License-Identifier: Apache-2.0
//
// The app from its serial line: what each request does, that it is done once, and that nothing else
// does anything.
#include <initializer_list>
#include <new>

#include "app/crc32.h"
#include "app/framing.h"
#include "app/training_app.h"
#include "check.h"
#include "sim_flash.h"
#include "small_model.h"
#include "xorshift.h"

namespace {

using tflm_zo::AnswerStatus;
using tflm_zo::CheckpointStatus;
using tflm_zo::Frame;
using tflm_zo::FrameDecoder;
using tflm_zo::FrameEncoder;
using tflm_zo::FrameEvent;
using tflm_zo::LedState;
using tflm_zo::LoadLe16;
using tflm_zo::LoadLe32;
using tflm_zo::LoadLe64;
using tflm_zo::Request;
using tflm_zo::StoreLe16;
using tflm_zo::StoreLe32;

constexpr uint64_t kHash = 0x0123456789ABCDEFu;
constexpr uint32_t kRecordBytes = SmallModel::kFeatures + 4;
constexpr uint32_t kBatchCapacity = 5;
constexpr uint32_t kWideInputs = SmallFrozenLayers::kMostInputs;
constexpr uint32_t kFrameBytes = tflm_zo::kMinPayloadBytes + tflm_zo::kFrameOverhead;
constexpr Geometry kGeometry = {256, 4, 4};
constexpr uint8_t kModelBytes[40] = {'m', 'o', 'd', 'e', 'l'};

// A payload put together field by field.
struct Payload {
  uint8_t data[512];
  uint32_t size = 0;

  Payload& U8(uint32_t value) {
    data[size++] = static_cast<uint8_t>(value);
    return *this;
  }
  Payload& U16(uint32_t value) {
    StoreLe16(data + size, static_cast<uint16_t>(value));
    size += 2;
    return *this;
  }
  Payload& U32(uint32_t value) {
    StoreLe32(data + size, value);
    size += 4;
    return *this;
  }
  Payload& F32(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return U32(bits);
  }
  Payload& Bytes(const void* bytes, uint32_t count) {
    std::memcpy(data + size, bytes, count);
    size += count;
    return *this;
  }
};

float F32At(const uint8_t* at) {
  const uint32_t bits = LoadLe32(at);
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

class Line final : public tflm_zo::SerialPort {
 public:
  uint32_t Read(uint8_t* data, uint32_t capacity) override {
    uint32_t count = 0;
    while (count < capacity && read_ < written_) data[count++] = to_board_[read_++];
    if (read_ == written_) read_ = written_ = 0;
    return count;
  }
  bool Write(const uint8_t* data, uint32_t size) override {
    for (uint32_t i = 0; i < size; ++i) {
      if (from_board_size < sizeof(from_board)) from_board[from_board_size++] = data[i];
    }
    return true;
  }
  void Arrive(const uint8_t* data, uint32_t size) {
    for (uint32_t i = 0; i < size && written_ < sizeof(to_board_); ++i) {
      to_board_[written_++] = data[i];
    }
  }

  uint8_t from_board[4096];
  uint32_t from_board_size = 0;

 private:
  uint8_t to_board_[4096];
  uint32_t written_ = 0;
  uint32_t read_ = 0;
};

class TestBoard final : public tflm_zo::Board {
 public:
  explicit TestBoard(SimFlash* flash) : flash_(flash) {}
  tflm_zo::SerialPort& serial() override { return line; }
  tflm_zo::Flash& flash() override { return *flash_; }
  uint32_t NowMicros() override { return micros += 100; }
  void SetLed(LedState state) override {
    led = state;
    seen |= 1u << static_cast<uint32_t>(state);
  }
  void FeedWatchdog() override { watchdog += 1; }

  Line line;
  LedState led = LedState::kIdle;
  uint32_t seen = 0;  // states, as bits
  uint32_t micros = 0;
  uint32_t watchdog = 0;

 private:
  SimFlash* flash_;
};

class Collector final : public tflm_zo::ByteSink {
 public:
  bool Write(const uint8_t* bytes, uint32_t size) override {
    std::memcpy(data + this->size, bytes, size);
    this->size += size;
    return true;
  }
  uint8_t data[1024];
  uint32_t size = 0;
};

void Encode(uint8_t type, uint16_t sequence, const Payload& payload, Collector* line) {
  line->size = 0;
  FrameEncoder encoder(line);
  encoder.Begin(type, sequence, payload.size);
  encoder.Append(payload.data, payload.size);
  encoder.End();
}

// A board with the app, and a host that talks to it.
class Rig {
 public:
  Rig(SimFlash* flash, uint64_t hash, bool missing_input, SmallFrozenLayers* frozen)
      : board(flash), hash_(hash), frozen_(frozen) {
    model.missing_input = missing_input;
    Boot();
  }

  tflm_zo::TrainingApp& app() { return *app_; }

  // Off and on again, with what the flash has kept.
  void Reboot() {
    model.PowerCycle();
    board.line.from_board_size = 0;
    Boot();
  }

  // Of both parts of the model.
  uint32_t invocations() const {
    return model.invocations + (frozen_ == nullptr ? 0 : frozen_->invocations);
  }

  void Run() {
    for (int i = 0; i < 10000; ++i) {
      const uint32_t before = invocations();
      const bool more = app_->Poll();
      // A first pass on a sample that is kept as it came takes the frozen layers along.
      CHECK(invocations() - before <= (frozen_ == nullptr ? 1u : 2u));
      if (!more) return;
    }
    CHECK(false);
  }

  // Sends a frame as it is and takes the last answer, if any.
  bool Exchange(uint8_t type, uint16_t sequence, const Payload& payload) {
    Collector line;
    Encode(type, sequence, payload, &line);
    board.line.from_board_size = 0;
    board.line.Arrive(line.data, line.size);
    Run();
    return TakeAnswer();
  }

  bool TakeAnswer() {
    FrameDecoder decoder(answer_buffer_, sizeof(answer_buffer_));
    bool found = false;
    for (uint32_t i = 0; i < board.line.from_board_size; ++i) {
      if (decoder.Push(board.line.from_board[i]) == FrameEvent::kFrame) {
        const Frame& frame = decoder.frame();
        answer_type = frame.type;
        answer_sequence = frame.sequence;
        status = static_cast<AnswerStatus>(frame.payload[0]);
        size = frame.size - 1;
        std::memcpy(body, frame.payload + 1, size);
        found = true;
      }
    }
    board.line.from_board_size = 0;
    return found;
  }

  bool Hello(uint32_t session = 7) {
    sequence = 100;
    return Exchange(static_cast<uint8_t>(Request::kHello), sequence, Payload().U32(session));
  }

  // The next request; true if it was carried out.
  bool Ask(Request request, const Payload& payload = Payload()) {
    sequence = static_cast<uint16_t>(sequence + 1);
    status = AnswerStatus::kInWork;
    const bool answered = Exchange(static_cast<uint8_t>(request), sequence, payload);
    CHECK(answered);
    CHECK_EQ(answer_type, static_cast<uint8_t>(request) | 0x80);
    CHECK_EQ(answer_sequence, sequence);
    return answered && status == AnswerStatus::kOk;
  }

  uint32_t StateCrc() const {
    uint8_t state[SmallModel::kStateBytes];
    model.CopyState(state);
    return tflm_zo::Crc32(state, sizeof(state));
  }

  SmallModel model;
  TestBoard board;
  CheckpointStatus boot = CheckpointStatus::kNone;
  uint16_t sequence = 0;
  uint8_t answer_type = 0;
  uint16_t answer_sequence = 0;
  AnswerStatus status = AnswerStatus::kOk;
  uint8_t body[1024];
  uint32_t size = 0;

 private:
  void Boot() {
    // With frozen layers, the last sample comes in whole.
    const uint32_t more = frozen_ == nullptr ? 0 : kWideInputs - SmallModel::kFeatures;
    app_ = new (memory_) tflm_zo::TrainingApp(
        &board, {&model, frozen_}, {kModelBytes, sizeof(kModelBytes), hash_},
        {frame_, sizeof(frame_), samples_, kBatchCapacity * kRecordBytes + more, nullptr, 0});
    boot = app_->Start();
  }

  uint64_t hash_;
  SmallFrozenLayers* frozen_;
  alignas(tflm_zo::TrainingApp) uint8_t memory_[sizeof(tflm_zo::TrainingApp)];
  tflm_zo::TrainingApp* app_ = nullptr;
  alignas(8) uint8_t frame_[kFrameBytes];
  uint8_t samples_[kBatchCapacity * kRecordBytes + kWideInputs];
  uint8_t answer_buffer_[1200];
};

// Two at a time, and not on a board's stack.
template <int kSlot = 0>
Rig& MakeRig(SimFlash* flash, uint64_t hash = kHash, bool missing_input = false,
             SmallFrozenLayers* frozen = nullptr) {
  alignas(Rig) static uint8_t memory[sizeof(Rig)];
  return *new (memory) Rig(flash, hash, missing_input, frozen);
}

SimFlash& FreshFlash() {
  static SimFlash flash;
  flash.Renew(kGeometry);
  return flash;
}

struct Sample {
  int8_t x[SmallModel::kFeatures];
  int32_t y;
};

Sample SampleOf(uint32_t index) {
  Xorshift random(index + 1);
  Sample sample{};
  sample.y = static_cast<int32_t>(random.Below(SmallModel::kClasses));
  for (int i = 0; i < SmallModel::kFeatures; ++i) {
    sample.x[i] = static_cast<int8_t>(random.Below(61)) - 30;
  }
  sample.x[sample.y] = 100;
  return sample;
}

Payload Record(const Sample& sample) {
  return Payload().U32(0).Bytes(sample.x, sizeof(sample.x)).Bytes(&sample.y, 4);
}

// Weight perturbation of weights and bias (which the exact update leaves alone), or the exact head.
tflm_zo::ScheduleSettings Settings(bool exact) {
  tflm_zo::ScheduleSettings settings{};
  settings.seed = 99;
  settings.antithetic = 1;
  settings.exact = exact ? 1 : 0;
  settings.head_rate = 0.05f;
  settings.group_count = exact ? 0 : 1;
  settings.groups[0] = {tflm_zo::kBatchDirections, 0, 2, 3};
  return settings;
}

Payload SchedulePayload(const tflm_zo::ScheduleSettings& settings, uint32_t run = 5,
                        uint32_t step = 0) {
  Payload payload;
  payload.U32(run).U32(step).U16(kBatchCapacity).U32(settings.seed);
  payload.U8(static_cast<uint32_t>(settings.antithetic)).U8(static_cast<uint32_t>(settings.exact));
  payload.U8(static_cast<uint32_t>(settings.accumulate)).F32(settings.head_rate);
  payload.U8(static_cast<uint32_t>(settings.group_count));
  for (int32_t g = 0; g < settings.group_count; ++g) {
    const tflm_zo::ScheduleGroup& group = settings.groups[g];
    payload.U8(static_cast<uint32_t>(group.mode)).U8(static_cast<uint32_t>(group.queries));
    payload.U16(static_cast<uint32_t>(group.first)).U16(static_cast<uint32_t>(group.last));
  }
  return payload;
}

void Configure(Rig* rig, bool exact, uint32_t run = 5, uint32_t step = 0) {
  CHECK(rig->Ask(Request::kSetSchedule, SchedulePayload(Settings(exact), run, step)));
  CHECK(rig->Ask(Request::kSetParameter, Payload().U16(0).U32(exact ? 0 : 2).F32(0.002f).U32(0)));
  CHECK(rig->Ask(Request::kSetParameter, Payload().U16(1).U32(exact ? 0 : 50).F32(0.01f).U32(0)));
}

void SendBatch(Rig* rig, uint32_t step, uint32_t samples) {
  CHECK(rig->Ask(Request::kBeginBatch));
  for (uint32_t i = 0; i < samples; ++i) {
    CHECK(rig->Ask(Request::kSample, Record(SampleOf(10 * step + i))));
    CHECK_EQ(LoadLe16(rig->body), i + 1);
  }
}

bool EndBatch(Rig* rig, uint32_t step) {
  return rig->Ask(Request::kEndBatch, Payload().U32(step).F32(1.0f));
}

void TrainSteps(Rig* rig, uint32_t first, uint32_t last) {
  for (uint32_t step = first; step < last; ++step) {
    SendBatch(rig, step, kBatchCapacity);
    CHECK(EndBatch(rig, step));
  }
}

// The same steps without app and line.
uint32_t DirectlyTrained(bool exact, uint32_t steps) {
  SmallModel model;
  tflm_zo::OnDeviceTrainer trainer(&model);
  CHECK(trainer.Start() == tflm_zo::TrainerStatus::kOk);
  CHECK(trainer.SetSchedule(Settings(exact), kBatchCapacity) == tflm_zo::TrainerStatus::kOk);
  CHECK(trainer.SetParameter(0, exact ? 0 : 2, 0.002f) == tflm_zo::TrainerStatus::kOk);
  CHECK(trainer.SetParameter(1, exact ? 0 : 50, 0.01f) == tflm_zo::TrainerStatus::kOk);
  for (uint32_t step = 0; step < steps; ++step) {
    CHECK(trainer.BeginStep(step, kBatchCapacity, 1.0f) == tflm_zo::TrainerStatus::kOk);
    int32_t index;
    while (trainer.NextPass(&index)) {
      const Sample sample = SampleOf(10 * step + static_cast<uint32_t>(index));
      CHECK(trainer.RunPass(sample.x, &sample.y) == tflm_zo::TrainerStatus::kOk);
    }
  }
  const Sample last = SampleOf(0);
  CHECK(trainer.Finish(last.x, &last.y) == tflm_zo::TrainerStatus::kOk);
  uint8_t state[SmallModel::kStateBytes];
  model.CopyState(state);
  return tflm_zo::Crc32(state, sizeof(state));
}

uint32_t FactoryCrc() { return DirectlyTrained(true, 0); }

TEST(ModelTrains) {
  SmallModel model;
  CHECK(model.prepared());
  CHECK(DirectlyTrained(true, 5) != DirectlyTrained(true, 0));
  CHECK(DirectlyTrained(false, 5) != DirectlyTrained(false, 0));
  CHECK(DirectlyTrained(false, 5) != DirectlyTrained(true, 5));
}

TEST(HelloTellsWhatTheBoardIs) {
  Rig& rig = MakeRig(&FreshFlash());
  CHECK(rig.Hello());
  CHECK(rig.status == AnswerStatus::kOk);
  CHECK_EQ(LoadLe16(rig.body), tflm_zo::kMessageVersion);
  CHECK_EQ(rig.body[2], 0);  // a new session
  CHECK_EQ(rig.body[3], 0);  // the model runs
  CHECK(static_cast<CheckpointStatus>(rig.body[4]) == CheckpointStatus::kNone);
  CHECK_EQ(LoadLe32(rig.body + 5), 0u);
  CHECK_EQ(LoadLe64(rig.body + 9), kHash);
  CHECK_EQ(LoadLe32(rig.body + 17), sizeof(kModelBytes));
  CHECK_EQ(LoadLe32(rig.body + 21), SmallModel::kFeatures);
  CHECK_EQ(LoadLe32(rig.body + 25), 4u);
  CHECK_EQ(LoadLe32(rig.body + 29), SmallModel::kClasses);
  CHECK_EQ(LoadLe16(rig.body + 33), SmallModel::kParameters);
  CHECK_EQ(LoadLe16(rig.body + 35), 0);
  CHECK_EQ(LoadLe16(rig.body + 37), kBatchCapacity);
  CHECK_EQ(LoadLe32(rig.body + 39), tflm_zo::kMinPayloadBytes);
  CHECK(rig.Hello());
  CHECK_EQ(rig.body[2], 1);  // the same session once more
  CHECK(rig.Ask(Request::kParameter, Payload().U16(1)));
  CHECK_EQ(rig.body[0], tflm_zo::kBias);
  CHECK_EQ(LoadLe32(rig.body + 6), SmallModel::kClasses);
  CHECK_EQ(LoadLe32(rig.body + 14), 2 * SmallModel::kClasses);
  CHECK(!rig.Ask(Request::kParameter, Payload().U16(3)));
  CHECK(rig.status == AnswerStatus::kBadRequest);
  CHECK(rig.Ask(Request::kReadModel, Payload().U32(1).U16(4)));
  CHECK_EQ(rig.size, 4u);
  CHECK_BYTES_EQ(rig.body, "odel", 4);
  CHECK(!rig.Ask(Request::kReadModel, Payload().U32(38).U16(4)));
  CHECK(!rig.Ask(static_cast<Request>(0x7E)));
  CHECK(rig.status == AnswerStatus::kUnknownRequest);
}

TEST(NothingWithoutASession) {
  Rig& rig = MakeRig(&FreshFlash());
  const uint32_t passes = rig.model.invocations;
  CHECK(rig.Exchange(static_cast<uint8_t>(Request::kTrain), 1,
                     Payload().U32(0).F32(1.0f).U32(0).Bytes("12345678", 8)));
  CHECK(rig.status == AnswerStatus::kNoSession);
  CHECK_EQ(rig.model.invocations, passes);
}

// What the frozen layers make of it is a SampleOf().
Payload WideRecord(const Sample& sample) {
  int8_t wide[kWideInputs];
  for (uint32_t i = 0; i < kWideInputs; ++i) wide[i] = i % 2 == 0 ? sample.x[i / 2] : 77;
  return Payload().U32(0).Bytes(wide, sizeof(wide)).Bytes(&sample.y, 4);
}

TEST(FrozenLayersRunOnceASample) {
  SmallFrozenLayers frozen(static_cast<int>(kWideInputs));
  Rig& rig = MakeRig(&FreshFlash(), kHash, false, &frozen);
  rig.Hello();
  CHECK_EQ(LoadLe32(rig.body + 21), kWideInputs);
  CHECK_EQ(LoadLe16(rig.body + 37), kBatchCapacity);
  Configure(&rig, false);
  for (uint32_t step = 0; step < 6; ++step) {
    CHECK(rig.Ask(Request::kBeginBatch));
    for (uint32_t i = 0; i < kBatchCapacity; ++i) {
      CHECK(rig.Ask(Request::kSample, WideRecord(SampleOf(10 * step + i))));
      CHECK_EQ(LoadLe16(rig.body), i + 1);
    }
    CHECK(!rig.Ask(Request::kSample, WideRecord(SampleOf(0))));
    CHECK(EndBatch(&rig, step));
    CHECK_EQ(LoadLe32(rig.body), 30u);
  }
  CHECK(rig.Ask(Request::kFinish));
  CHECK_EQ(rig.StateCrc(), DirectlyTrained(false, 6));
  CHECK_EQ(frozen.invocations, 6 * kBatchCapacity);
  CHECK(rig.Ask(Request::kMetrics));
  CHECK_EQ(LoadLe32(rig.body + 40), frozen.invocations);

  const Sample sample = SampleOf(3);
  CHECK(rig.Ask(Request::kTrain, Payload().U32(6).F32(1.0f).Bytes(WideRecord(sample).data, 16)));
  CHECK_EQ(LoadLe32(rig.body), 6u);
  CHECK_EQ(frozen.invocations, 6 * kBatchCapacity + 1);
  CHECK(rig.Ask(Request::kEvaluate, WideRecord(sample)));
  CHECK_EQ(frozen.invocations, 6 * kBatchCapacity + 2);

  frozen.fails = true;
  CHECK(rig.Ask(Request::kBeginBatch));
  CHECK(!rig.Ask(Request::kSample, WideRecord(sample)));
  CHECK(rig.status == AnswerStatus::kModel);
  CHECK(!rig.Ask(Request::kTrain, Payload().U32(7).F32(1.0f).Bytes(WideRecord(sample).data, 16)));
  frozen.fails = false;
  CHECK(rig.Ask(Request::kTrain, Payload().U32(7).F32(1.0f).Bytes(WideRecord(sample).data, 16)));
}

TEST(TrainsAsTheTrainerDoes) {
  for (const bool exact : {true, false}) {
    Rig& rig = MakeRig(&FreshFlash());
    rig.Hello();
    Configure(&rig, exact);
    TrainSteps(&rig, 0, 6);
    CHECK(rig.Ask(Request::kFinish));
    CHECK_EQ(LoadLe32(rig.body), exact ? 0u : 1u);
    CHECK_EQ(rig.StateCrc(), DirectlyTrained(exact, 6));
    CHECK_EQ(rig.app().progress().steps, 6u);
    CHECK_EQ(rig.app().progress().passes, exact ? 30u : 6 * 30u + 1);
  }
}

TEST(EveryRequestIsCarriedOutOnce) {
  Rig& rig = MakeRig(&FreshFlash());
  rig.Hello();
  Configure(&rig, false);
  for (uint32_t step = 0; step < 6; ++step) {
    SendBatch(&rig, step, kBatchCapacity - 1);
    const Payload sample = Record(SampleOf(10 * step + kBatchCapacity - 1));
    CHECK(rig.Ask(Request::kSample, sample));
    for (int i = 0; i < 3; ++i) {
      CHECK(rig.Exchange(static_cast<uint8_t>(Request::kSample), rig.sequence, sample));
      CHECK(rig.status == AnswerStatus::kOk);
      CHECK_EQ(LoadLe16(rig.body), kBatchCapacity);
    }
    CHECK(EndBatch(&rig, step));
    uint8_t first[12];
    CHECK_EQ(rig.size, sizeof(first));
    std::memcpy(first, rig.body, sizeof(first));
    const uint32_t passes = rig.model.invocations;
    const Payload end = Payload().U32(step).F32(1.0f);
    for (int i = 0; i < 3; ++i) {
      CHECK(rig.Exchange(static_cast<uint8_t>(Request::kEndBatch), rig.sequence, end));
      CHECK_EQ(rig.size, sizeof(first));
      CHECK_BYTES_EQ(rig.body, first, sizeof(first));
    }
    CHECK_EQ(rig.model.invocations, passes);
    // Neither a frame of before nor one that is ahead, nor another one with the present number.
    const uint32_t state = rig.StateCrc();
    for (const int shift : {-1, -2, 2, 3, 0x8000}) {
      const auto sequence = static_cast<uint16_t>(rig.sequence + shift);
      CHECK(rig.Exchange(static_cast<uint8_t>(Request::kFactoryReset), sequence, Payload()));
      CHECK(rig.status == AnswerStatus::kOutOfSequence);
      CHECK_EQ(rig.answer_sequence, sequence);
    }
    CHECK(rig.Exchange(static_cast<uint8_t>(Request::kEndBatch), rig.sequence,
                       Payload().U32(step + 1).F32(1.0f)));
    CHECK(rig.status == AnswerStatus::kOutOfSequence);
    CHECK_EQ(rig.StateCrc(), state);
  }
  CHECK(rig.Ask(Request::kFinish));
  CHECK_EQ(rig.StateCrc(), DirectlyTrained(false, 6));
}

TEST(YieldsBetweenPassesAndSaysHowFarItIs) {
  Rig& rig = MakeRig(&FreshFlash());
  rig.Hello();
  Configure(&rig, false);
  SendBatch(&rig, 0, kBatchCapacity);
  rig.sequence += 1;
  Collector line;
  Encode(static_cast<uint8_t>(Request::kEndBatch), rig.sequence, Payload().U32(0).F32(1.0f), &line);
  uint32_t polls = 0;
  bool answered = false;
  while (!answered && polls < 100) {
    // The impatient host repeats itself before every poll.
    rig.board.line.Arrive(line.data, line.size);
    const uint32_t fed = rig.board.watchdog;
    const uint32_t passes = rig.model.invocations;
    CHECK(rig.app().Poll());
    CHECK(rig.board.watchdog > fed);
    CHECK(rig.model.invocations - passes <= 1);
    polls += 1;
    answered = rig.TakeAnswer() && rig.status == AnswerStatus::kOk;
    if (!answered && polls > 1) {
      CHECK(rig.status == AnswerStatus::kInWork);
      CHECK_EQ(LoadLe32(rig.body), polls - 1);
      CHECK(rig.board.led == LedState::kTraining);
    }
  }
  CHECK_EQ(polls, 31u);  // 30 passes, and one poll to see that there is no other
  CHECK_EQ(LoadLe32(rig.body), 30u);
  CHECK(F32At(rig.body + 4) > 0.0f);
  CHECK(rig.board.led == LedState::kIdle);
  CHECK_EQ(rig.app().progress().steps, 1u);
}

TEST(ANewHostWaitsForTheStepInWork) {
  Rig& rig = MakeRig(&FreshFlash());
  rig.Hello(1);
  Configure(&rig, false);
  SendBatch(&rig, 0, kBatchCapacity);
  Collector line;
  Encode(static_cast<uint8_t>(Request::kEndBatch), static_cast<uint16_t>(rig.sequence + 1),
         Payload().U32(0).F32(1.0f), &line);
  rig.board.line.Arrive(line.data, line.size);
  rig.app().Poll();
  Encode(static_cast<uint8_t>(Request::kHello), 9, Payload().U32(2), &line);
  rig.board.line.Arrive(line.data, line.size);
  rig.app().Poll();
  CHECK(rig.TakeAnswer());
  CHECK(rig.status == AnswerStatus::kInWork);
  rig.Run();
  CHECK_EQ(rig.app().progress().steps, 1u);
  CHECK(rig.Hello(2));
  CHECK(rig.status == AnswerStatus::kOk);
  CHECK_EQ(rig.body[2], 0);
  CHECK(!EndBatch(&rig, 1));  // the batch of the other host is gone
  CHECK(rig.status == AnswerStatus::kBadRequest);
}

TEST(InfersAndEvaluates) {
  Rig& rig = MakeRig(&FreshFlash());
  rig.Hello();
  const Sample sample = SampleOf(3);
  CHECK(rig.Ask(Request::kInfer, Payload().U32(0).Bytes(sample.x, sizeof(sample.x))));
  CHECK_EQ(rig.size, 4u + SmallModel::kClasses);
  const int32_t predicted = static_cast<int32_t>(LoadLe32(rig.body));
  const auto* codes = reinterpret_cast<const int8_t*>(rig.body + 4);
  for (int j = 0; j < SmallModel::kClasses; ++j) CHECK(codes[j] <= codes[predicted]);
  CHECK(rig.Ask(Request::kEvaluate, Record(sample)));
  CHECK_EQ(static_cast<int32_t>(LoadLe32(rig.body)), predicted);
  CHECK(F32At(rig.body + 4) > 0.0f);
  CHECK(F32At(rig.body + 8) > 0.0f);
  CHECK_EQ(rig.StateCrc(), FactoryCrc());
  CHECK_EQ(rig.app().progress().passes, 0u);
  Sample wrong = sample;
  wrong.y = SmallModel::kClasses;
  CHECK(!rig.Ask(Request::kEvaluate, Record(wrong)));
  CHECK(rig.status == AnswerStatus::kModel);
  CHECK(rig.board.led == LedState::kError);
  CHECK(rig.Ask(Request::kEvaluate, Record(sample)));
}

TEST(SamplesInPieces) {
  Rig& rig = MakeRig(&FreshFlash());
  rig.Hello();
  Configure(&rig, false);
  for (uint32_t step = 0; step < 2; ++step) {
    CHECK(rig.Ask(Request::kBeginBatch));
    for (uint32_t i = 0; i < kBatchCapacity; ++i) {
      const Sample sample = SampleOf(10 * step + i);
      const Payload whole = Record(sample);
      const uint32_t cut = 1 + i;
      CHECK(rig.Ask(Request::kSample, Payload().U32(0).Bytes(whole.data + 4, cut)));
      CHECK_EQ(LoadLe16(rig.body), i);
      CHECK(!rig.Ask(Request::kSample, Payload().U32(cut + 1).Bytes(whole.data, 1)));
      CHECK(!rig.Ask(Request::kInfer, Payload().U32(cut).Bytes(whole.data, 1)));
      CHECK(!EndBatch(&rig, step));
      CHECK(rig.Ask(Request::kSample,
                    Payload().U32(cut).Bytes(whole.data + 4 + cut, kRecordBytes - cut)));
      CHECK_EQ(LoadLe16(rig.body), i + 1);
    }
    CHECK(!rig.Ask(Request::kSample, Record(SampleOf(1))));  // the batch is full
    CHECK(!rig.Ask(Request::kInfer, Payload().U32(0).Bytes("abcd", 4)));
    CHECK(EndBatch(&rig, step));
  }
  CHECK(rig.Ask(Request::kFinish));
  CHECK_EQ(rig.StateCrc(), DirectlyTrained(false, 2));
}

TEST(OneSampleIsABatchToo) {
  Rig& one = MakeRig(&FreshFlash());
  one.Hello();
  Configure(&one, true);
  const Payload record = Record(SampleOf(0));
  CHECK(one.Ask(Request::kTrain, Payload().U32(0).F32(0.5f).Bytes(record.data, record.size)));
  CHECK_EQ(LoadLe32(one.body), 1u);
  Rig& batch = MakeRig<1>(&FreshFlash());
  batch.Hello();
  Configure(&batch, true);
  SendBatch(&batch, 0, 1);
  CHECK(batch.Ask(Request::kEndBatch, Payload().U32(0).F32(0.5f)));
  CHECK_EQ(one.StateCrc(), batch.StateCrc());
  CHECK(one.StateCrc() != FactoryCrc());
  CHECK(one.Ask(Request::kSample, record));
  CHECK(!one.Ask(Request::kTrain, Payload().U32(0).F32(1.0f).Bytes(record.data, record.size)));
}

TEST(AModelWithoutReferenceIsNotRecalibrated) {
  Rig& rig = MakeRig(&FreshFlash());
  rig.Hello();
  CHECK(!rig.Ask(Request::kBeginObservation));
  CHECK(!rig.Ask(Request::kObserve, Payload().U32(0).Bytes(SampleOf(0).x, 4)));
  CHECK(!rig.Ask(Request::kRecalibrate));
  CHECK(rig.status == AnswerStatus::kBadRequest);
  const char* message = tflm_zo::TrainerStatusMessage(tflm_zo::TrainerStatus::kNoReference);
  CHECK_EQ(rig.size, std::strlen(message));
  CHECK_BYTES_EQ(rig.body, message, rig.size);
  CHECK_EQ(rig.StateCrc(), FactoryCrc());
}

TEST(BadSettingsChangeNothing) {
  Rig& rig = MakeRig(&FreshFlash());
  rig.Hello();
  CHECK(!EndBatch(&rig, 0));
  SendBatch(&rig, 0, 1);
  CHECK(!EndBatch(&rig, 0));  // no schedule yet
  tflm_zo::ScheduleSettings settings = Settings(false);
  settings.groups[0].last = 9;
  CHECK(!rig.Ask(Request::kSetSchedule, SchedulePayload(settings)));
  settings = Settings(false);
  settings.groups[0].queries = 65;
  CHECK(!rig.Ask(Request::kSetSchedule, SchedulePayload(settings)));
  settings = Settings(true);
  settings.head_rate = 0.0f / settings.head_rate;
  settings.head_rate /= settings.head_rate;  // not a number
  CHECK(!rig.Ask(Request::kSetSchedule, SchedulePayload(settings)));
  Payload batch = SchedulePayload(Settings(true));
  batch.data[8] = kBatchCapacity + 1;
  CHECK(!rig.Ask(Request::kSetSchedule, batch));
  Payload longer = SchedulePayload(Settings(true)).U8(0);
  CHECK(!rig.Ask(Request::kSetSchedule, longer));
  CHECK(!rig.Ask(Request::kSetParameter, Payload().U16(0).U32(5).F32(0.1f).U32(0)));  // headroom 4
  CHECK(!rig.Ask(Request::kSetParameter, Payload().U16(0).U32(1).U32(0x7FC00000u).U32(0)));
  CHECK(!rig.Ask(Request::kSetParameter, Payload().U16(2).U32(0).F32(0.1f).U32(0)));  // a residual
  CHECK(!rig.Ask(Request::kSetNode, Payload().U16(0).U32(1).U32(1).F32(0.1f).U32(0)));
  CHECK(rig.status == AnswerStatus::kBadRequest);
  CHECK_EQ(rig.app().progress().run, 0u);
  CHECK_EQ(rig.StateCrc(), FactoryCrc());
}

TEST(WeightsCanBeReadAndWritten) {
  Rig& rig = MakeRig(&FreshFlash());
  rig.Hello();
  CHECK(rig.Ask(Request::kReadWeights, Payload().U16(0).U32(2).U16(10)));
  CHECK_EQ(rig.size, 10u);
  CHECK_BYTES_EQ(rig.body, rig.model.initial_weights() + 2, 10);
  CHECK(!rig.Ask(Request::kReadWeights, Payload().U16(0).U32(3).U16(10)));
  CHECK(!rig.Ask(Request::kReadWeights, Payload().U16(0).U32(0xFFFFFFFFu).U16(2)));
  CHECK(!rig.Ask(Request::kReadWeights, Payload().U16(3).U32(0).U16(1)));
  const int8_t values[3] = {-100, 7, 123};
  CHECK(rig.Ask(Request::kWriteWeights, Payload().U16(0).U32(6).Bytes(values, 3)));
  CHECK_BYTES_EQ(rig.model.weights() + 6, values, 3);
  const uint32_t state = rig.StateCrc();
  const int8_t too_large[2] = {0, 124};  // 124 + 4 would not come back
  CHECK(!rig.Ask(Request::kWriteWeights, Payload().U16(0).U32(6).Bytes(too_large, 2)));
  CHECK(!rig.Ask(Request::kWriteWeights, Payload().U16(0).U32(11).Bytes(values, 2)));
  CHECK(!rig.Ask(Request::kWriteWeights, Payload().U16(1).U32(2).Bytes("1234", 4)));
  CHECK(!rig.Ask(Request::kWriteWeights, Payload().U16(1).U32(0).Bytes("123", 3)));
  CHECK_EQ(rig.StateCrc(), state);
  const int8_t no_headroom = -128;  // element 5 is never perturbed: any value
  CHECK(rig.Ask(Request::kWriteWeights, Payload().U16(0).U32(5).Bytes(&no_headroom, 1)));
}

TEST(CheckpointsSurviveARestart) {
  SimFlash& flash = FreshFlash();
  Rig& rig = MakeRig(&flash);
  rig.Hello();
  CHECK(!rig.Ask(Request::kRestore));
  CHECK(rig.status == AnswerStatus::kStorage);
  Configure(&rig, false);
  TrainSteps(&rig, 0, 4);
  // The update that the last step left pending is in the checkpoint.
  CHECK(rig.Ask(Request::kCheckpoint));
  CHECK_EQ(LoadLe32(rig.body), 1u);
  CHECK((rig.board.seen & 1u << static_cast<uint32_t>(LedState::kSaving)) != 0);
  const uint32_t saved = rig.StateCrc();
  CHECK_EQ(saved, DirectlyTrained(false, 4));
  const uint32_t passes = rig.app().progress().passes;
  TrainSteps(&rig, 4, 5);
  CHECK(rig.Ask(Request::kRestore));
  CHECK_EQ(LoadLe32(rig.body + 4), 4u);
  CHECK_EQ(rig.StateCrc(), saved);

  rig.Reboot();
  CHECK(rig.boot == CheckpointStatus::kOk);
  CHECK_EQ(rig.StateCrc(), saved);
  CHECK(rig.Hello());
  CHECK(static_cast<CheckpointStatus>(rig.body[4]) == CheckpointStatus::kOk);
  CHECK_EQ(LoadLe32(rig.body + 5), 1u);
  CHECK_EQ(LoadLe32(rig.body + 43), 5u);  // run
  CHECK_EQ(LoadLe32(rig.body + 47), 4u);  // steps
  CHECK_EQ(LoadLe32(rig.body + 51), passes);
  CHECK_EQ(F32At(rig.body + 55), 0.05f);
  // Going on from there ends where an unbroken run ends.
  Configure(&rig, false, 5, 4);
  CHECK_EQ(rig.app().progress().passes, passes);
  TrainSteps(&rig, 4, 7);
  CHECK(rig.Ask(Request::kFinish));
  CHECK_EQ(rig.StateCrc(), DirectlyTrained(false, 7));

  Rig& other = MakeRig<1>(&flash, kHash + 1);
  CHECK(other.boot == CheckpointStatus::kOtherModel);
  CHECK_EQ(other.StateCrc(), FactoryCrc());

  CHECK(rig.Ask(Request::kFactoryReset));
  CHECK_EQ(rig.StateCrc(), FactoryCrc());
  CHECK_EQ(rig.app().progress().run, 0u);
  rig.Reboot();
  CHECK(rig.boot == CheckpointStatus::kNone);
  CHECK_EQ(rig.StateCrc(), FactoryCrc());
}

TEST(PowerCutsWhileSaving) {
  static SimFlash flash;
  uint32_t older = 0;
  uint32_t newer = 0;
  for (const Cut cut : {Cut::kBefore, Cut::kRandom, Cut::kHalf, Cut::kAfter}) {
    for (uint32_t operation = 0;; ++operation) {
      flash.Renew(kGeometry);
      Rig& rig = MakeRig(&flash);
      rig.Hello();
      Configure(&rig, false);
      TrainSteps(&rig, 0, 1);
      CHECK(rig.Ask(Request::kCheckpoint));
      const uint32_t first = rig.StateCrc();
      TrainSteps(&rig, 1, 2);
      flash.CutPower(operation, cut, operation + 1);
      const bool saved = rig.Ask(Request::kCheckpoint);
      const uint32_t second = rig.StateCrc();
      flash.PowerUp();
      rig.Reboot();
      CHECK(rig.Hello());
      CHECK(rig.boot == CheckpointStatus::kOk);
      const uint32_t number = LoadLe32(rig.body + 5);
      CHECK(number == 1 || number == 2);
      // It reports what it has, and what was promised to be saved is there.
      CHECK_EQ(rig.StateCrc(), number == 1 ? first : second);
      CHECK_EQ(LoadLe32(rig.body + 47), number);
      if (saved) CHECK_EQ(number, 2u);
      (number == 1 ? older : newer) += 1;
      if (saved) break;
      CHECK(operation < 100);
      if (operation >= 100) break;
    }
  }
  CHECK(older > 80);
  CHECK(newer >= 4);
  CHECK_EQ(flash.violations, 0u);
}

TEST(AFlashThatFailsWhileLoadingLeavesTheFactoryWeights) {
  SimFlash& flash = FreshFlash();
  Rig& rig = MakeRig(&flash);
  rig.Hello();
  Configure(&rig, false);
  TrainSteps(&rig, 0, 2);
  CHECK(rig.Ask(Request::kCheckpoint));
  const uint32_t saved = rig.StateCrc();
  uint32_t failures = 0;
  for (uint32_t read = 0; read < 40; ++read) {
    flash.failing_read = read;
    rig.Reboot();
    flash.failing_read = SimFlash::kNever;
    CHECK(rig.boot == CheckpointStatus::kOk || rig.boot == CheckpointStatus::kFlashFailure);
    CHECK_EQ(rig.StateCrc(), rig.boot == CheckpointStatus::kOk ? saved : FactoryCrc());
    failures += rig.boot == CheckpointStatus::kFlashFailure ? 1 : 0;
  }
  CHECK(failures >= 5);
}

TEST(AModelThatDoesNotRunSaysSo) {
  Rig& rig = MakeRig(&FreshFlash(), kHash, true);
  CHECK(rig.Hello());
  CHECK(rig.status == AnswerStatus::kOk);
  CHECK(rig.body[3] != 0);
  CHECK(!rig.Ask(Request::kInfer, Payload().U32(0).U32(0)));
  CHECK(rig.status == AnswerStatus::kModel);
  CHECK(!rig.Ask(Request::kBeginBatch));
  CHECK(!rig.Ask(Request::kReadWeights, Payload().U16(0).U32(0).U16(1)));
  CHECK(rig.Ask(Request::kMetrics));
}

struct Watched {
  uint32_t state;
  uint32_t invocations;
  uint32_t operations;
  tflm_zo::TrainingProgress progress;
};

Watched Watch(Rig* rig, const SimFlash& flash) {
  return {rig->StateCrc(), rig->model.invocations, flash.operations, rig->app().progress()};
}

bool Same(const Watched& a, const Watched& b) {
  return a.state == b.state && a.invocations == b.invocations && a.operations == b.operations &&
         std::memcmp(&a.progress, &b.progress, sizeof(a.progress)) == 0;
}

TEST(RandomAndMutatedFramesChangeNothing) {
  SimFlash& flash = FreshFlash();
  Rig& rig = MakeRig(&flash);
  rig.Hello();
  Configure(&rig, false);
  TrainSteps(&rig, 0, 1);
  SendBatch(&rig, 1, kBatchCapacity);
  Xorshift random(2024);
  const Request dangerous[] = {Request::kEndBatch,   Request::kTrain,        Request::kFinish,
                               Request::kCheckpoint, Request::kFactoryReset, Request::kWriteWeights,
                               Request::kRestore,    Request::kSetSchedule};
  const Watched before = Watch(&rig, flash);
  uint32_t answers = 0;
  for (uint32_t i = 0; i < 10000; ++i) {
    Collector line;
    if (random.Below(2) == 0) {
      line.size = 1 + random.Below(200);
      for (uint32_t k = 0; k < line.size; ++k) line.data[k] = static_cast<uint8_t>(random.Next());
    } else {
      // The very next request, damaged on the way.
      Payload payload;
      payload.U32(1).F32(1.0f);
      for (uint32_t k = random.Below(40); k > 0; --k) payload.U8(random.Next());
      Encode(static_cast<uint8_t>(dangerous[random.Below(8)]),
             static_cast<uint16_t>(rig.sequence + 1), payload, &line);
      for (uint32_t k = 1 + random.Below(3); k > 0; --k) {
        const uint32_t at = 1 + random.Below(line.size - 2);
        const auto changed = static_cast<uint8_t>(random.Next());
        line.data[at] = changed == line.data[at] ? static_cast<uint8_t>(changed ^ 0x10) : changed;
      }
      if (random.Below(4) == 0) line.size -= 1 + random.Below(line.size / 2);
    }
    rig.board.line.from_board_size = 0;
    rig.board.line.Arrive(line.data, line.size);
    rig.Run();
    answers += rig.TakeAnswer() ? 1 : 0;
  }
  CHECK_EQ(answers, 0u);
  CHECK(Same(Watch(&rig, flash), before));
  const uint8_t end = 0;
  rig.board.line.Arrive(&end, 1);
  rig.Run();
  // And the session goes on as if nothing had been.
  CHECK(EndBatch(&rig, 1));
  CHECK(rig.Ask(Request::kFinish));
  CHECK_EQ(rig.StateCrc(), DirectlyTrained(false, 2));
}

TEST(ValidFramesWithAnyContentDoNoHarm) {
  SimFlash& flash = FreshFlash();
  Rig& rig = MakeRig(&flash);
  rig.Hello();
  Xorshift random(77);
  uint32_t done = 0;
  for (uint32_t i = 0; i < 5000; ++i) {
    const Request known[] = {
        Request::kParameter,   Request::kMetrics,      Request::kReadModel,
        Request::kInfer,       Request::kEvaluate,     Request::kTrain,
        Request::kBeginBatch,  Request::kSample,       Request::kEndBatch,
        Request::kFinish,      Request::kSetSchedule,  Request::kSetParameter,
        Request::kSetNode,     Request::kCheckpoint,   Request::kRestore,
        Request::kReadWeights, Request::kWriteWeights, Request::kFactoryReset,
        Request::kObserve,     Request::kRecalibrate,  Request::kBeginObservation};
    const auto type = random.Below(8) == 0 ? static_cast<Request>(2 + random.Below(0x7E))
                                           : known[random.Below(21)];
    Payload payload;
    for (uint32_t k = random.Below(5); k > 0; --k) payload.U16(random.Below(6));
    for (uint32_t k = random.Below(9); k > 0; --k) payload.U8(random.Next());
    if (type == Request::kSetSchedule && random.Below(2) == 0) {
      payload = SchedulePayload(Settings(random.Below(2) == 0));
      payload.data[random.Below(payload.size)] = static_cast<uint8_t>(random.Next());
    }
    if ((type == Request::kSample || type == Request::kTrain) && random.Below(2) == 0) {
      const Payload record = Record(SampleOf(i));
      payload.size = 0;
      if (type == Request::kTrain) payload.U32(i).F32(1.0f);
      payload.Bytes(record.data, record.size);
    }
    done += rig.Ask(type, payload) ? 1 : 0;
    CHECK(rig.status == AnswerStatus::kOk || rig.size > 10);  // refusals come with words
  }
  CHECK(done > 1000);
  CHECK_EQ(flash.violations, 0u);
  CHECK(rig.Ask(Request::kFactoryReset));
  CHECK_EQ(rig.StateCrc(), FactoryCrc());
}

}  // namespace

CHECK_MAIN()
