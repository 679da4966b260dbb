// SPDX-License-Identifier: Apache-2.0
//
// A board that learns from a host: `tflm-zo monitor --port PORT --data samples.npz -o
// adapted.tflite` streams labelled samples to it, and takes the adapted model back. What was
// learned survives a loss of power.
//
// LED: green waiting, blue at work, white saving, red refused the last request.
//
// model.h, model.cpp, model_ops.h and tflm_library.h beside it are written by `tflm-zo export`.
// TFLM's library comes first: by its header Arduino finds the headers that the others include.
#include "tflm_library.h"
// Then the rest.
#include <TflmZo.h>

#include <array>

#include "model.h"
#include "model_ops.h"

namespace {

// The longest request that a host may send; longer samples come in pieces.
constexpr uint32_t kPayloadBytes = 1024;

alignas(16) uint8_t arena[kArenaBytes];
uint8_t samples[kBatchBytes];
std::array<tflm_zo::ChannelSum, kReferenceChannels> sums;  // to recalibrate with
alignas(8) uint8_t frame[kPayloadBytes + tflm_zo::kFrameOverhead];

tflm_zo::Nano33Ble board;
tflm_zo::TrainingApp* app = nullptr;

// Brings model, TFLM and app up. Returns what is wrong, or nullptr.
const char* Start() {
  if (board.Fault() != nullptr) return board.Fault();
  // Built here, not before main(): constructors of global objects must not need each other.
  static ModelOps ops;
  if (!ops.Add()) return "an op of the model is missing";
  static tflm_zo::TflmRuntime runtime(kRestModel, kFrozenModel, ops.resolver(), arena, kArenaBytes);
  if (!runtime.Allocate()) return "the model does not fit its arena, or was made for another TFLM";
  static tflm_zo::TrainingApp the_app(
      &board, runtime.parts(), {kModel, kModelBytes, kModelHash},
      {frame, sizeof(frame), samples, sizeof(samples), sums.data(), kReferenceChannels});
  the_app.Start();
  app = &the_app;
  return nullptr;
}

}  // namespace

void setup() {
  Serial.begin(115200);
  board.Begin();
  const char* fault = Start();
  while (fault != nullptr) {
    board.SetLed(tflm_zo::LedState::kError);
    board.FeedWatchdog();
    Serial.print("error: ");
    Serial.println(fault);
    delay(2000);
  }
}

void loop() { app->Poll(); }
