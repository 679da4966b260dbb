// SPDX-License-Identifier: Apache-2.0
//
// Runs and trains a patched model on what comes in over the serial port.
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

alignas(16) uint8_t arena[kArenaBytes];
uint8_t batch[kBatchBytes];
std::array<tflm_zo::ChannelSum, kReferenceChannels> sums;  // to recalibrate with

class SerialSource final : public tflm_zo::StreamSource {
 public:
  bool Read(void* data, uint32_t size) override {
    return Serial.readBytes(static_cast<char*>(data), size) == size;
  }
};

class SerialSink final : public tflm_zo::TextSink {
 public:
  void Print(const char* text) override { Serial.print(text); }
};

tflm_zo::OnDeviceTrainer* trainer = nullptr;

// Brings model, TFLM and trainer up. Returns what is wrong, or nullptr.
const char* Start() {
  // Built here, not before main(): constructors of global objects must not need each other.
  static ModelOps ops;
  if (!ops.Add()) return "an op of the model is missing";
  static tflm_zo::TflmRuntime runtime(kRestModel, kFrozenModel, ops.resolver(), arena, kArenaBytes);
  if (!runtime.Allocate()) return "the model does not fit its arena, or was made for another TFLM";
  static tflm_zo::OnDeviceTrainer the_trainer(runtime.parts());
  const tflm_zo::TrainerStatus status = the_trainer.Start();
  if (status != tflm_zo::TrainerStatus::kOk) return tflm_zo::TrainerStatusMessage(status);
  trainer = &the_trainer;
  return nullptr;
}

}  // namespace

void setup() {
  Serial.begin(115200);
  Serial.setTimeout(60000);
  while (!Serial) {
  }
  const char* fault = Start();
  if (fault != nullptr) {
    Serial.print("error: ");
    Serial.println(fault);
  }
}

// The application: everything above is the model, this is what is done with it.
void loop() {
  if (trainer == nullptr || Serial.available() == 0) return;
  SerialSource source;
  SerialSink sink;
  tflm_zo::TrainingStream stream(trainer, &source, &sink, batch, sizeof(batch), sums.data(),
                                 kReferenceChannels);
  stream.Run();
}
