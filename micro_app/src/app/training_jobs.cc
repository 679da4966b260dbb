// SPDX-License-Identifier: Apache-2.0
#include "training_jobs.h"

#include <cstring>

namespace tflm_zo {

void TrainingJobs::Begin(Job job, LedState led) {
  job_ = job;
  totals_ = {};
  board_->SetLed(led);
}

// Ends the job in work; true, for RunPass.
bool TrainingJobs::End(bool succeeded) {
  job_ = Job::kNone;
  board_->SetLed(succeeded ? LedState::kIdle : LedState::kError);
  return true;
}

void TrainingJobs::AddSample() {
  if (trainer_->reduces()) {
    Begin(Job::kAddSample, LedState::kTraining);
    return;
  }
  batch_->Commit();
  AnswerBatch();
}

void TrainingJobs::AnswerBatch() {
  answer_->fields().Set(BatchAnswer{static_cast<uint16_t>(batch_->size())});
}

void TrainingJobs::AddSampleAndTrain(uint32_t step, float rate_scale) {
  step_ = step;
  rate_scale_ = rate_scale;
  if (trainer_->reduces()) {
    Begin(Job::kAddSampleAndTrain, LedState::kTraining);
    return;
  }
  batch_->Commit();
  Train(step, rate_scale);
}

void TrainingJobs::Train(uint32_t step, float rate_scale) {
  if (!answer_->Check(trainer_->BeginStep(step, batch_->size(), rate_scale))) {
    batch_->Clear();
    return;
  }
  step_ = step;
  Begin(Job::kTrain, LedState::kTraining);
}

bool TrainingJobs::RunPass() {
  switch (job_) {
    case Job::kNone:
      return false;
    case Job::kInfer:
      return RunInference();
    case Job::kEvaluate:
      return RunEvaluation();
    case Job::kAddSample:
    case Job::kAddSampleAndTrain:
      return ReduceSample();
    case Job::kTrain:
      return RunStepPass();
  }
  return false;
}

bool TrainingJobs::RunInference() {
  if (!answer_->Check(trainer_->Infer(batch_->next_input()))) return End(false);
  const TensorMemory result = trainer_->result();
  answer_->fields().Set(InferAnswer{trainer_->PredictedClass()}).Tail(result.data, result.bytes);
  return End(true);
}

bool TrainingJobs::RunEvaluation() {
  if (!answer_->Check(trainer_->Evaluate(batch_->next_input(), batch_->next_target()))) {
    return End(false);
  }
  const Report& report = trainer_->report();
  answer_->fields().Set(
      EvaluateAnswer{trainer_->PredictedClass(), report.loss, report.feature_energy});
  return End(true);
}

bool TrainingJobs::ReduceSample() {
  if (!answer_->Check(trainer_->Reduce(batch_->next_input()))) return End(false);
  batch_->Commit();
  if (job_ == Job::kAddSampleAndTrain) {
    job_ = Job::kNone;
    Train(step_, rate_scale_);
    return in_work() ? false : End(false);
  }
  AnswerBatch();
  return End(true);
}

bool TrainingJobs::RunStepPass() {
  int32_t sample;
  if (!trainer_->NextPass(&sample)) {
    progress_->steps = step_ + 1;
    answer_->fields().Set(totals_);
    batch_->Clear();
    return End(true);
  }
  if (!answer_->Check(trainer_->RunReduced(batch_->kept(sample), batch_->target(sample)))) {
    batch_->Clear();
    return End(false);
  }
  progress_->passes += 1;
  totals_.passes += 1;
  totals_.loss += trainer_->report().loss;
  if (trainer_->target_is_class()) {
    int32_t label;
    std::memcpy(&label, batch_->target(sample), sizeof(label));
    if (trainer_->report().prediction == label) totals_.right += 1;
  }
  return false;
}

}  // namespace tflm_zo
