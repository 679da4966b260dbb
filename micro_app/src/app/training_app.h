// SPDX-License-Identifier: Apache-2.0
//
// The application: a patched model that a host runs, trains and reads out over a serial line.
//
// The same code on a board (TFLM's C++ interpreter), in an emulator and on a host (TFLM's Python
// wheel behind ModelRuntime). Memory is what the caller hands in; there is no heap.
//
// Its parts: host_session.h takes requests and sends answers, training_app_requests.cc carries each
// request out, and training_jobs.h runs the forward passes that some of them take.
#ifndef TFLM_ZO_MICRO_APP_TRAINING_APP_H_
#define TFLM_ZO_MICRO_APP_TRAINING_APP_H_

#include <cstdint>

#include "hal.h"
#include "host_session.h"
#include "measured_runtime.h"
#include "messages.h"
#include "model_runtime.h"
#include "model_state.h"
#include "on_device_trainer.h"
#include "recalibrate.h"
#include "request_answer.h"
#include "sample_batch.h"
#include "sample_collector.h"
#include "training_jobs.h"

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
constexpr uint32_t kMinPayloadBytes = sizeof(ScheduleRequest) + kMaxGroups * sizeof(GroupFields);

class TrainingApp final : private RequestHandler {
 public:
  // All arguments must outlive the app; the engines have their tensors allocated.
  TrainingApp(Board* board, const ModelParts& parts, const ModelImage& model,
              const AppMemory& memory);

  // Starts the model and loads the newest checkpoint. Call once, before Poll. The host learns the
  // outcome from the answer to its hello; the return value is for a port that can show it.
  CheckpointStatus Start();

  // Takes what has arrived and runs at most one forward pass of a request in work. True: there is
  // more to do at once; false: wait for the serial line.
  bool Poll();

  TrainerStatus model_status() const { return model_status_; }
  const TrainingProgress& progress() const { return progress_; }

 private:
  void BeginSession() override;
  void AnswerHello(bool continued, AnswerFields* answer) override;
  void Execute(Request request, FieldReader fields) override;
  bool in_work() const override { return jobs_.in_work(); }
  void AnswerInWork(AnswerFields* answer) const override { answer->Set(jobs_.totals()); }

  // One request each; see training_app_requests.cc.
  void Parameter(FieldReader fields);
  void Metrics();
  void ReadModel(FieldReader fields);
  void Infer(FieldReader fields);
  void Evaluate(FieldReader fields);
  void Train(FieldReader fields);
  void BeginBatch();
  void Sample(FieldReader fields);
  void EndBatch(FieldReader fields);
  void Finish();
  void BeginObservation();
  void Observe(FieldReader fields);
  void Recalibrate();
  void SetSchedule(FieldReader fields);
  void SetParameter(FieldReader fields);
  void SetNode(FieldReader fields);
  void SaveCheckpoint();
  void Restore();
  void FactoryReset();
  void ReadWeights(FieldReader fields);
  void WriteWeights(FieldReader fields);

  // What several of them need.
  uint32_t record_bytes() const { return trainer_.input_bytes() + trainer_.target_bytes(); }
  bool CollectForPass(Request request, FieldReader fields, uint32_t record_bytes);
  bool ApplyPendingUpdate();
  bool CanObserve();

  Board* board_;
  ModelImage model_;
  AppMemory memory_;
  MeasuredRuntime runtime_;
  MeasuredRuntime frozen_;
  OnDeviceTrainer trainer_;
  ModelState state_;
  SampleBatch batch_{nullptr, 0, 1, 0, 1};
  ChannelSums sums_;
  TrainingProgress progress_{};
  RequestAnswer answer_;
  HostSession session_;
  SampleCollector collector_;
  TrainingJobs jobs_;

  TrainerStatus model_status_ = TrainerStatus::kNotStarted;
  CheckpointStatus boot_status_ = CheckpointStatus::kNone;
  uint32_t boot_checkpoint_ = 0;  // its number, 0: none
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_TRAINING_APP_H_
