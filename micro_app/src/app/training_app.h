// SPDX-License-Identifier: Apache-2.0
//
// The application: a patched model that a host runs, trains and reads out over a serial line.
//
// The same code on a board (TFLM's C++ interpreter), in an emulator and on a host (TFLM's Python
// wheel behind ModelRuntime). Memory is what the caller hands in; there is no heap.
//
// Every request is carried out exactly once, however often its frame arrives: the host numbers its
// requests and repeats one until the answer comes; the board carries out the next number, repeats
// its answer to the present one, and refuses all others.
#ifndef TFLM_ZO_MICRO_APP_TRAINING_APP_H_
#define TFLM_ZO_MICRO_APP_TRAINING_APP_H_

#include <cstdint>

#include "framing.h"
#include "hal.h"
#include "messages.h"
#include "model_runtime.h"
#include "model_state.h"
#include "on_device_trainer.h"
#include "sample_batch.h"

namespace tflm_zo {

// The patched model, as the host can read it back.
struct ModelImage {
  const uint8_t* data;
  uint32_t size;  // bytes
  uint64_t hash;  // the first 8 bytes of its SHA-256, as a big-endian number
};

struct AppMemory {
  // For one frame: its payload and kFrameOverhead bytes.
  uint8_t* frame;
  uint32_t frame_bytes;
  // For the samples of a batch, each with its label.
  uint8_t* samples;
  uint32_t sample_bytes;
  // For what recalibration adds up: one for each channel of the input adapter.
  ChannelSum* sums;
  uint32_t channels;
};

// Least payload of a request that the app needs: the longest one whose length is fixed by the
// protocol is a schedule with all of its groups.
constexpr uint32_t kMinPayloadBytes = 22 + 6 * kMaxGroups;

class TrainingApp {
 public:
  // All arguments must outlive the app; the engines have their tensors allocated.
  TrainingApp(Board* board, const ModelParts& parts, const ModelImage& model,
              const AppMemory& memory);

  // Brings the model up and loads the newest checkpoint. Call once, before Poll. Whatever it finds
  // it tells the host in answer to a hello; the return value is for a port that can show it.
  CheckpointStatus Start();

  // Takes what has arrived and runs at most one forward pass of a request in work. True: there is
  // more to do at once; false: wait for the serial line.
  bool Poll();

  TrainerStatus model_status() const { return model_status_; }
  const TrainingProgress& progress() const { return progress_; }

 private:
  enum class Job : uint8_t { kNone, kInfer, kEvaluate, kReduce, kStep };
  enum class Collected : uint8_t { kRefused, kPart, kAll };

  // Counts and times passes on their way to the engine.
  class MeasuredRuntime final : public ModelRuntime {
   public:
    MeasuredRuntime(ModelRuntime* runtime, Board* board) : runtime_(runtime), board_(board) {}
    TensorMemory Input(int index) override { return runtime_->Input(index); }
    TensorMemory Output(int index) override { return runtime_->Output(index); }
    bool Invoke() override;
    uint32_t passes() const { return passes_; }
    uint32_t pass_micros() const { return pass_micros_; }

   private:
    ModelRuntime* runtime_;
    Board* board_;
    uint32_t passes_ = 0;
    uint32_t pass_micros_ = 0;
  };

  // What the passes of a step add up to.
  struct StepTotals {
    uint32_t passes;
    float loss;      // sum
    uint32_t right;  // passes whose prediction is the label
  };

  bool Receive();
  void Handle(const Frame& frame);
  void Hello(const Frame& frame);
  void Execute(Request request, FieldReader fields);
  void Send(uint8_t request_type, uint16_t sequence, const AnswerFields& answer);
  void SendAnswer() { Send(request_type_, sequence_, answer_); }
  void SendAtOnce(const Frame& frame, AnswerStatus status);
  void Refuse(AnswerStatus status, const char* text);
  void RefuseValues() { Refuse(AnswerStatus::kBadRequest, "a value is out of range"); }
  bool Check(TrainerStatus status);
  bool Check(CheckpointStatus status);

  void Parameter(FieldReader fields);
  void Metrics();
  void ReadModel(FieldReader fields);
  void CollectForPass(Request request, Job job, FieldReader fields, uint32_t record_bytes);
  void CollectSample(FieldReader fields);
  void Train(FieldReader fields);
  void EndBatch(FieldReader fields);
  void Finish();
  void BeginObservation();
  void Observe(FieldReader fields);
  void Recalibrate();
  bool CanObserve();
  void AddProgress(AnswerFields* answer) const;
  void SetSchedule(FieldReader fields);
  void SetParameter(FieldReader fields);
  void SetNode(FieldReader fields);
  void SaveCheckpoint();
  void Restore();
  void FactoryReset();
  void ReadWeights(FieldReader fields);
  void WriteWeights(FieldReader fields);

  Collected Collect(Request request, uint32_t offset, const uint8_t* data, uint32_t size,
                    uint32_t record_bytes);
  bool TakeSample();
  void FinishSample();
  void StartStep(uint32_t step, float rate_scale);
  bool FinishStep();
  void RunJob();
  void RunStepPass();
  void EndJob(LedState led = LedState::kIdle);

  Board* board_;
  ModelImage model_;
  MeasuredRuntime runtime_;
  MeasuredRuntime frozen_;
  OnDeviceTrainer trainer_;
  ModelState state_;
  FrameDecoder decoder_;
  FrameEncoder encoder_;
  AppMemory memory_;
  SampleBatch batch_{nullptr, 0, 1, 0, 1};
  ChannelSums sums_;

  TrainerStatus model_status_ = TrainerStatus::kNotStarted;
  CheckpointStatus boot_status_ = CheckpointStatus::kNone;
  uint32_t boot_checkpoint_ = 0;  // its number, 0: none
  TrainingProgress progress_{};
  uint32_t damaged_frames_ = 0;

  bool in_session_ = false;
  uint32_t session_ = 0;
  // The request that was carried out last, or is in work, and the answer to it.
  uint16_t sequence_ = 0;
  uint8_t request_type_ = 0;
  uint32_t request_crc_ = 0;
  AnswerFields answer_;

  // A record that comes in pieces.
  Request collecting_ = Request::kHello;
  uint32_t collected_ = 0;

  Job job_ = Job::kNone;
  uint32_t step_ = 0;
  float rate_scale_ = 0.0f;
  StepTotals totals_{};
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_TRAINING_APP_H_
