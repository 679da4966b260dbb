// SPDX-License-Identifier: Apache-2.0
//
// A board that learns from its own motion sensor, without a host: it says what the model takes the
// last movement for, and is told what it was.
//
// Over the serial monitor, or any terminal at 115200 baud:
//   0 .. 9   the last movement was of this class: learn it
//   s        save what was learned; it is loaded again at the next start, and what came later is
//            forgotten then: a reset undoes a wrong label
//   f        forget all: back to the exported weights
//   r        the sensor has drifted: recalibrate it by the movements that come next, of all kinds
// Or by buttons from D2, D3, D4 ... to ground: the one of the class, pressed after the movement.
//
// The model takes windows of acceleration in g, x y z x y z ...: train it on windows that were
// recorded so, and patch it with --trainable exact (or head); for `r` also with --adapter and
// --reference. Their length and the scale of the int8 codes come with the model, in model.h.
//
// model.h, model.cpp, model_ops.h and tflm_library.h beside it are written by `tflm-zo export`.
// TFLM's library comes first: by its header Arduino finds the headers that the others include.
#include "tflm_library.h"
// The motion sensor. On a Nano 33 BLE Sense Rev2: Arduino_BMI270_BMM150.h
#include <Arduino_LSM9DS1.h>
#include <TflmZo.h>

#include <array>
#include <cmath>
#include <cstring>

#include "model.h"
#include "model_ops.h"

namespace {

using tflm_zo::CheckpointStatus;
using tflm_zo::LedState;
using tflm_zo::TrainerStatus;

constexpr uint32_t kAxes = 3;
constexpr int kFirstButton = 2;
constexpr int kButtons = kClasses < 6 ? kClasses : 6;
// Windows that recalibration looks at.
constexpr uint32_t kRecalibrationWindows = 50;

static_assert(kClasses > 0, "this example learns classes");
static_assert(kInputIsInt8, "this example feeds int8 codes");
static_assert(kInputBytes % kAxes == 0, "the model's input is no window of x, y and z");

alignas(16) uint8_t arena[kArenaBytes];
int8_t recording[kInputBytes];
uint32_t filled = 0;
int8_t window[kInputBytes];  // the last complete one
bool has_window = false;
std::array<tflm_zo::ChannelSum, kReferenceChannels> sums;
tflm_zo::ChannelSums observed;
bool observing = false;

tflm_zo::Nano33Ble board;
tflm_zo::OnDeviceTrainer* trainer = nullptr;
tflm_zo::ModelState* state = nullptr;
tflm_zo::TrainingProgress progress{};
bool pressed = false;

bool Good(TrainerStatus status) {
  if (status == TrainerStatus::kOk) return true;
  board.SetLed(LedState::kError);
  Serial.println(tflm_zo::TrainerStatusMessage(status));
  return false;
}

const char* Start() {
  if (board.Fault() != nullptr) return board.Fault();
  // Built here, not before main(): constructors of global objects must not need each other.
  static ModelOps ops;
  if (!ops.Add()) return "an op of the model is missing";
  static tflm_zo::TflmRuntime runtime(kRestModel, kFrozenModel, ops.resolver(), arena, kArenaBytes);
  if (!runtime.Allocate()) return "the model does not fit its arena, or was made for another TFLM";
  static tflm_zo::OnDeviceTrainer the_trainer(runtime.parts());
  const TrainerStatus status = the_trainer.Start();
  if (status != TrainerStatus::kOk) return tflm_zo::TrainerStatusMessage(status);
  trainer = &the_trainer;
  static tflm_zo::ModelState the_state(trainer, &board.flash(), kModelHash);
  state = &the_state;
  const CheckpointStatus found = state->Load(&progress);
  Serial.println(found == CheckpointStatus::kOk ? "going on with what was learned before"
                                                : tflm_zo::CheckpointStatusMessage(found));
  return IMU.begin() ? nullptr : "no motion sensor found";
}

// The input's code of a value, as the host quantizes samples.
int8_t Code(float value) {
  const float code = std::nearbyint(value / kInputScale) + static_cast<float>(kInputZeroPoint);
  return static_cast<int8_t>(code < -128.0f ? -128.0f : (code > 127.0f ? 127.0f : code));
}

// Takes in what the sensor has. True once another window is complete.
bool Sense() {
  while (IMU.accelerationAvailable() && filled < kInputBytes) {
    float g[kAxes];
    IMU.readAcceleration(g[0], g[1], g[2]);
    for (const float value : g) recording[filled++] = Code(value);
  }
  if (filled < kInputBytes) return false;
  std::memcpy(window, recording, sizeof(window));
  has_window = true;
  filled = 0;
  return true;
}

void Classify() {
  board.SetLed(LedState::kInferring);
  if (!Good(trainer->Infer(window))) return;
  Serial.print("class ");
  Serial.println(trainer->PredictedClass());
  board.SetLed(LedState::kIdle);
}

// One step on the last window. The learning rates follow from the window itself, as the host's do
// from some of its samples.
void Learn(int32_t label) {
  if (!has_window) return;
  if (label >= kClasses) {
    Serial.print("the classes are 0 to ");
    Serial.println(kClasses - 1);
    return;
  }
  board.SetLed(LedState::kTraining);
  if (!Good(trainer->Measure(window, &label, kFirstExactNode, kLastExactNode))) return;
  Serial.print("loss before ");
  Serial.println(trainer->report().loss);
  const auto rates = tflm_zo::RatesOf(kHeadLimit, trainer->report());
  tflm_zo::ScheduleSettings settings{};
  settings.seed = 1;
  settings.antithetic = 1;
  settings.exact = 1;
  settings.head_rate = rates.head;
  if (!Good(trainer->SetSchedule(settings, 1))) return;
  for (int32_t node = 0; node < trainer->node_count(); ++node) {
    // Other nodes would take perturbed passes.
    const bool exact = node >= kFirstExactNode && node < kLastExactNode;
    if (!Good(trainer->SetNode(node, 0, 1, exact ? rates.before_head : 0.0f))) return;
  }
  if (!Good(trainer->BeginStep(progress.steps, 1, 1.0f))) return;
  int32_t sample;
  while (trainer->NextPass(&sample)) {
    board.FeedWatchdog();
    if (!Good(trainer->RunPass(window, &label))) return;
    progress.passes += 1;
  }
  progress.steps += 1;
  if (!Good(trainer->Evaluate(window, &label))) return;
  Serial.print("loss after ");
  Serial.println(trainer->report().loss);
  board.SetLed(LedState::kIdle);
}

// Adds the window up; with enough of them, brings mean and spread of each axis back to what they
// were in the reference samples.
void Observe() {
  observed.Add(window);
  if (observed.samples() < kRecalibrationWindows) return;
  observing = false;
  if (Good(trainer->Recalibrate(observed))) Serial.println("recalibrated");
}

void StartObserving() {
  if (kReferenceChannels == 0) {
    Good(TrainerStatus::kNoReference);
    return;
  }
  observed = tflm_zo::ChannelSums(sums.data(), kReferenceChannels, kInputBytes);
  observing = true;
  Serial.print("recalibrating after windows: ");
  Serial.println(kRecalibrationWindows);
}

void Obey(int request) {
  if (request >= '0' && request <= '9') {
    Learn(request - '0');
  } else if (request == 's') {
    board.SetLed(LedState::kSaving);
    Serial.println(tflm_zo::CheckpointStatusMessage(state->Save(progress)));
    board.SetLed(LedState::kIdle);
  } else if (request == 'f') {
    state->Reset();
    progress = {};
    Serial.println(tflm_zo::CheckpointStatusMessage(state->Clear()));
  } else if (request == 'r') {
    StartObserving();
  }
}

// The button that has just been pressed, or -1.
int PressedButton() {
  int found = -1;
  for (int i = 0; i < kButtons; ++i) {
    if (digitalRead(kFirstButton + i) == LOW) found = i;
  }
  const bool is_new = found >= 0 && !pressed;
  pressed = found >= 0;
  return is_new ? found : -1;
}

}  // namespace

void setup() {
  Serial.begin(115200);
  board.Begin();
  const char* fault = Start();
  while (fault != nullptr) {
    board.SetLed(LedState::kError);
    board.FeedWatchdog();
    Serial.println(fault);
    delay(2000);
  }
  for (int i = 0; i < kButtons; ++i) pinMode(kFirstButton + i, INPUT_PULLUP);
}

void loop() {
  board.FeedWatchdog();
  if (Sense()) {
    if (observing) Observe();
    Classify();
  }
  const int button = PressedButton();
  if (button >= 0) Learn(button);
  if (Serial.available() > 0) Obey(Serial.read());
}
