// SPDX-License-Identifier: Apache-2.0
//
// One training stream on the exported model in TFLM's C++ interpreter, for any target.
#ifndef TFLM_ZO_MICRO_APP_TFLM_RUN_H_
#define TFLM_ZO_MICRO_APP_TFLM_RUN_H_

#include <array>

#include "model.h"
#include "model_ops.h"
#include "text_line.h"
#include "tflm_runtime.h"
#include "training_stream.h"

namespace tflm_zo {

// The export counts for a microcontroller; with 64-bit pointers TFLM's structures are twice as
// large.
constexpr size_t kRunArenaBytes = kArenaBytes * (sizeof(void*) / 4);

class WeightSink {
 public:
  virtual bool Write(const void* data, uint32_t size) = 0;

 protected:
  ~WeightSink() = default;
};

// TFLM's and the app's whole memory, apart from the stack.
class TrainingRun {
 public:
  // Trains as the stream says, prints what was measured, and writes the trained parameters, one
  // after the other, to `weights`. False after printing what went wrong.
  bool Run(StreamSource* source, TextSink* sink, WeightSink* weights) {
    if (!ops_.Add()) return Fail(sink, "an op of the model is missing");
    TflmRuntime runtime(kRestModel, kFrozenModel, ops_.resolver(), arena_, sizeof(arena_));
    if (!runtime.Allocate()) return Fail(sink, "the model does not fit its arena");
    TextLine line;
    line.Add("arena ").AddNumber(static_cast<uint32_t>(runtime.arena_used())).Add(" of ");
    line.AddNumber(sizeof(arena_)).Add(" bytes used\n");
    sink->Print(line.text());
    OnDeviceTrainer trainer(runtime.parts());
    const TrainerStatus status = trainer.Start();
    if (status != TrainerStatus::kOk) return Fail(sink, TrainerStatusMessage(status));
    TrainingStream stream(&trainer, source, sink, batch_, sizeof(batch_), sums_.data(),
                          kReferenceChannels);
    if (!stream.Run()) return false;
    ParameterView view;
    for (int32_t p = 0; trainer.ReadParameter(p, &view); ++p) {
      const size_t bytes = view.count * ElementBytes(view.entry->kind);
      if (!weights->Write(view.data, static_cast<uint32_t>(bytes))) {
        return Fail(sink, "the weights cannot be written");
      }
    }
    return true;
  }

 private:
  static bool Fail(TextSink* sink, const char* message) {
    sink->Print(TextLine().Add("error: ").Add(message).Add("\n").text());
    return false;
  }

  ModelOps ops_;
  alignas(16) uint8_t arena_[kRunArenaBytes];
  uint8_t batch_[kBatchBytes];
  std::array<ChannelSum, kReferenceChannels> sums_;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_TFLM_RUN_H_
