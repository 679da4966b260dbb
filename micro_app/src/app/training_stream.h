// SPDX-License-Identifier: Apache-2.0
//
// A whole training run as one stream of bytes: settings, then steps with their samples, then
// samples to measure on. It is what a host sends a board, recorded, so that the same run can be
// repeated on a PC, in an emulator and on a board and must end with the same weights.
//
// Little-endian, no padding:
//   "ZOST" | version u32 = 3 | input bytes u32 | target bytes u32
//   largest step in samples i32 | the fields of ScheduleSettings (schedule.h), groups last
//   parameter count i32 | per parameter: sigma i32, rate f32, mask (ignored for residuals and mean
//   predictions)
//   node count i32 | per node: sigma i32, block i32, rate f32, mask
// then items, each starting with its tag u32:
//   0 end
//   1 step: step u32 | samples i32 | rate scale f32 | per sample: input, target
//   2 finish: input, target (for the pass that applies the last update)
//   3 evaluate: samples u32 | per sample: input, target
//   4 recalibrate: samples u32 | per sample: input
#ifndef TFLM_ZO_MICRO_APP_TRAINING_STREAM_H_
#define TFLM_ZO_MICRO_APP_TRAINING_STREAM_H_

#include <cstdint>

#include "on_device_trainer.h"
#include "sample_batch.h"

namespace tflm_zo {

class StreamSource {
 public:
  // Fills all `size` bytes, waiting for them. False: the stream has ended or broken.
  virtual bool Read(void* data, uint32_t size) = 0;

 protected:
  ~StreamSource() = default;
};

class TextSink {
 public:
  virtual void Print(const char* text) = 0;

 protected:
  ~TextSink() = default;
};

class TrainingStream {
 public:
  // `memory`: room for the samples of the largest step. `sums`: as many as the input adapter has
  // channels, for a stream that recalibrates.
  TrainingStream(OnDeviceTrainer* trainer, StreamSource* source, TextSink* sink, uint8_t* memory,
                 uint32_t memory_bytes, ChannelSum* sums, uint32_t channels)
      : trainer_(trainer),
        source_(source),
        sink_(sink),
        memory_(memory),
        memory_bytes_(memory_bytes),
        sums_(sums),
        channels_(channels) {}

  // Carries the stream out from its first byte to its end, and prints a line for each thing
  // measured: accuracy and loss for each evaluation, passes, and the CRC-32 of the trained weights.
  // False after printing what was wrong.
  bool Run();

  // Training passes so far.
  uint32_t passes() const { return passes_; }

  // CRC-32 (IEEE) of all parameters, weights, biases and residuals, in the order of the table.
  uint32_t WeightsCrc();

 private:
  SampleBatch MakeBatch() const;
  bool ReadHeader();
  bool ReadSchedule();
  bool ReadParameters();
  bool ReadNodes();
  bool Step();
  bool Finish();
  bool Evaluate();
  bool Recalibrate();
  bool Fail(const char* message);
  bool Check(TrainerStatus status);

  template <typename T>
  bool Get(T* value) {
    return source_->Read(value, sizeof(T)) || Fail("the stream ends too early");
  }

  OnDeviceTrainer* trainer_;
  StreamSource* source_;
  TextSink* sink_;
  uint8_t* memory_;
  uint32_t memory_bytes_;
  ChannelSum* sums_;
  uint32_t channels_;
  uint32_t passes_ = 0;
  uint32_t steps_ = 0;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_TRAINING_STREAM_H_
