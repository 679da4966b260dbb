// SPDX-License-Identifier: Apache-2.0
//
// Requests that take forward passes of the model, carried out one pass at a time, so that the board
// can listen to its host and feed its watchdog in between.
#ifndef TFLM_ZO_MICRO_APP_TRAINING_JOBS_H_
#define TFLM_ZO_MICRO_APP_TRAINING_JOBS_H_

#include <cstdint>

#include "hal.h"
#include "messages.h"
#include "model_state.h"
#include "on_device_trainer.h"
#include "request_answer.h"
#include "sample_batch.h"

namespace tflm_zo {

class TrainingJobs {
 public:
  // All arguments must outlive this. `progress` counts the steps and passes of training.
  TrainingJobs(Board* board, OnDeviceTrainer* trainer, SampleBatch* batch, RequestAnswer* answer,
               TrainingProgress* progress)
      : board_(board), trainer_(trainer), batch_(batch), answer_(answer), progress_(progress) {}

  // Each of these begins a job on the sample that has come in, which is the next one of the batch.
  void Infer() { Begin(Job::kInfer, LedState::kInferring); }
  void Evaluate() { Begin(Job::kEvaluate, LedState::kInferring); }
  // Adds it to the batch, at once unless the frozen layers have to run on it first.
  void AddSample();
  // Adds it to the batch, and trains on this batch.
  void AddSampleAndTrain(uint32_t step, float rate_scale);

  // Begins a training step on the batch; see OnDeviceTrainer::BeginStep.
  void Train(uint32_t step, float rate_scale);

  bool in_work() const { return job_ != Job::kNone; }

  // Runs one pass of the job in work. True: it has ended, and the answer is complete.
  bool RunPass();

  // Writes the totals over the passes of the last job.
  void AddTotals(AnswerFields* answer) const;

 private:
  enum class Job : uint8_t { kNone, kInfer, kEvaluate, kAddSample, kAddSampleAndTrain, kTrain };

  struct Totals {
    uint32_t passes;
    float loss;      // sum
    uint32_t right;  // passes whose prediction is the label
  };

  void Begin(Job job, LedState led);
  bool End(bool succeeded);
  bool RunInference();
  bool RunEvaluation();
  bool ReduceSample();
  bool RunStepPass();

  Board* board_;
  OnDeviceTrainer* trainer_;
  SampleBatch* batch_;
  RequestAnswer* answer_;
  TrainingProgress* progress_;
  Job job_ = Job::kNone;
  uint32_t step_ = 0;
  float rate_scale_ = 0.0f;
  Totals totals_{};
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_TRAINING_JOBS_H_
