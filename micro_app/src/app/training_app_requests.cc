// SPDX-License-Identifier: Apache-2.0
//
// The requests of a host, one function each. docs/protocol.md has their fields.
#include "training_app.h"

namespace tflm_zo {
namespace {

Mask ReadMask(FieldReader* fields) {
  Mask mask;
  mask.kind = fields->U16();
  mask.level = fields->U16();
  return mask;
}

// Reads what a training step is made of. False if a field is out of the protocol's range; the
// trainer checks the rest.
bool ReadSchedule(FieldReader* fields, ScheduleSettings* settings) {
  *settings = {};
  settings->seed = fields->U32();
  settings->antithetic = fields->U8();
  settings->exact = fields->U8();
  settings->accumulate = fields->U8();
  settings->head_rate = fields->F32();
  settings->group_count = fields->U8();
  if (settings->group_count > kMaxGroups) return false;
  for (int32_t g = 0; g < settings->group_count; ++g) {
    ScheduleGroup& group = settings->groups[g];
    group.mode = fields->U8();
    group.queries = fields->U8();
    group.first = fields->U16();
    group.last = fields->U16();
  }
  return settings->antithetic <= 1 && settings->exact <= 2 && settings->accumulate <= 1;
}

}  // namespace

void TrainingApp::Parameter(FieldReader fields) {
  const int32_t index = fields.U16();
  ParameterView view;
  if (!fields.complete() || !trainer_.ReadParameter(index, &view)) {
    answer_.RefuseValues();
    return;
  }
  AnswerFields& answer = answer_.fields();
  answer.U8(static_cast<uint8_t>(view.entry->kind)).U8(view.entry->exact != 0 ? 1 : 0);
  answer.I32(view.entry->layer).U32(static_cast<uint32_t>(view.count));
  answer.I32(view.entry->headroom).U32(MomentCount(view));
}

void TrainingApp::Metrics() {
  AnswerFields& answer = answer_.fields();
  AddProgress(&answer);
  jobs_.AddTotals(&answer);
  answer.U32(runtime_.passes()).U32(runtime_.pass_micros()).U32(session_.damaged_frames());
  answer.U32(trainer_.frozen_runs());
}

void TrainingApp::ReadModel(FieldReader fields) {
  const uint32_t offset = fields.U32();
  const uint32_t size = fields.U16();
  if (!fields.complete() || offset > model_.size || size > model_.size - offset) {
    answer_.RefuseValues();
    return;
  }
  answer_.fields().Tail(model_.data + offset, size);
}

// Takes a piece of the sample that a single pass is to run on. True: it is complete.
bool TrainingApp::CollectForPass(Request request, FieldReader fields, uint32_t record_bytes) {
  const RecordPiece piece = ReadPiece(&fields);
  if (fields.good()) {
    return collector_.Collect(request, piece, record_bytes) == SampleCollector::Result::kComplete;
  }
  answer_.RefuseValues();
  return false;
}

void TrainingApp::Infer(FieldReader fields) {
  if (CollectForPass(Request::kInfer, fields, trainer_.input_bytes())) jobs_.Infer();
}

void TrainingApp::Evaluate(FieldReader fields) {
  if (CollectForPass(Request::kEvaluate, fields, record_bytes())) jobs_.Evaluate();
}

void TrainingApp::Train(FieldReader fields) {
  const uint32_t step = fields.U32();
  const float rate_scale = fields.F32();
  const RecordPiece piece = ReadPiece(&fields);
  if (!fields.good()) {
    answer_.RefuseValues();
  } else if (batch_.size() != 0) {
    answer_.Refuse(AnswerStatus::kBadRequest,
                   "a batch is being filled: end it, or begin a new one");
  } else if (collector_.Collect(Request::kTrain, piece, record_bytes()) ==
             SampleCollector::Result::kComplete) {
    jobs_.AddSampleAndTrain(step, rate_scale);
  }
}

void TrainingApp::BeginBatch() {
  collector_.Reset();
  batch_.Clear();
  answer_.fields().U16(static_cast<uint16_t>(batch_.capacity()));
}

void TrainingApp::Sample(FieldReader fields) {
  const RecordPiece piece = ReadPiece(&fields);
  if (!fields.good()) {
    answer_.RefuseValues();
    return;
  }
  switch (collector_.Collect(Request::kSample, piece, record_bytes())) {
    case SampleCollector::Result::kRefused:
      return;
    case SampleCollector::Result::kIncomplete:
      answer_.fields().U16(static_cast<uint16_t>(batch_.size()));
      return;
    case SampleCollector::Result::kComplete:
      jobs_.AddSample();
  }
}

void TrainingApp::EndBatch(FieldReader fields) {
  const uint32_t step = fields.U32();
  const float rate_scale = fields.F32();
  if (!fields.complete()) {
    answer_.RefuseValues();
  } else if (batch_.size() == 0 || collector_.incomplete()) {
    answer_.Refuse(AnswerStatus::kBadRequest,
                   "the batch has no samples, or the last one is not complete");
  } else {
    jobs_.Train(step, rate_scale);
  }
}

// Applies the update that the last step has left for the first pass of the next one.
bool TrainingApp::ApplyPendingUpdate() {
  const uint32_t before = runtime_.passes();
  const TrainerStatus status = trainer_.Finish(nullptr, nullptr);
  progress_.passes += runtime_.passes() - before;
  return answer_.Check(status);
}

void TrainingApp::Finish() {
  const uint32_t before = progress_.passes;
  if (ApplyPendingUpdate()) answer_.fields().U32(progress_.passes - before);
}

bool TrainingApp::CanObserve() {
  if (trainer_.reference_channels() == 0) return answer_.Check(TrainerStatus::kNoReference);
  if (sums_.channels() != 0) return true;
  answer_.Refuse(AnswerStatus::kBadRequest,
                 "this sketch has no memory to recalibrate with: export the model again");
  return false;
}

void TrainingApp::BeginObservation() {
  if (!CanObserve()) return;
  collector_.Reset();
  sums_.Reset();
  answer_.fields().U32(static_cast<uint32_t>(sums_.channels()));
}

void TrainingApp::Observe(FieldReader fields) {
  const RecordPiece piece = ReadPiece(&fields);
  if (!CanObserve()) return;
  if (!fields.good()) {
    answer_.RefuseValues();
    return;
  }
  const SampleCollector::Result result =
      collector_.Collect(Request::kObserve, piece, trainer_.input_bytes());
  if (result == SampleCollector::Result::kRefused) return;
  if (result == SampleCollector::Result::kComplete) {
    sums_.Add(reinterpret_cast<const int8_t*>(batch_.next_input()));
  }
  answer_.fields().U32(sums_.samples());
}

// Ends the observation: a sample that is observed after it begins the next one.
void TrainingApp::Recalibrate() {
  if (!CanObserve()) return;
  const uint32_t before = runtime_.passes();
  const TrainerStatus status = trainer_.Recalibrate(sums_);
  progress_.passes += runtime_.passes() - before;
  if (!answer_.Check(status)) return;
  answer_.fields().U32(sums_.samples());
  sums_.Reset();
}

void TrainingApp::SetSchedule(FieldReader fields) {
  const uint32_t run = fields.U32();
  const uint32_t step = fields.U32();
  const int32_t largest_batch = fields.U16();
  ScheduleSettings settings;
  if (!ReadSchedule(&fields, &settings) || !fields.complete() ||
      largest_batch > batch_.capacity()) {
    answer_.RefuseValues();
    return;
  }
  if (!answer_.Check(trainer_.SetSchedule(settings, largest_batch))) return;
  const bool goes_on = run == progress_.run && step != 0;
  progress_ = {run, step, goes_on ? progress_.passes : 0, settings.head_rate};
}

void TrainingApp::SetParameter(FieldReader fields) {
  const int32_t index = fields.U16();
  const int32_t sigma = fields.I32();
  const float rate = fields.F32();
  const Mask mask = ReadMask(&fields);
  if (!fields.complete()) {
    answer_.RefuseValues();
    return;
  }
  answer_.Check(trainer_.SetParameter(index, sigma, rate, mask));
}

void TrainingApp::SetNode(FieldReader fields) {
  const int32_t node = fields.U16();
  const int32_t sigma = fields.I32();
  const int32_t block = fields.I32();
  const float rate = fields.F32();
  const Mask mask = ReadMask(&fields);
  if (!fields.complete()) {
    answer_.RefuseValues();
    return;
  }
  answer_.Check(trainer_.SetNode(node, sigma, block, rate, mask));
}

void TrainingApp::SaveCheckpoint() {
  if (!ApplyPendingUpdate()) return;
  board_->SetLed(LedState::kSaving);
  CheckpointInfo info{};
  if (!answer_.Check(state_.Save(progress_)) || !answer_.Check(state_.Newest(&info))) return;
  answer_.fields().U32(info.sequence);
  board_->SetLed(LedState::kIdle);
}

void TrainingApp::Restore() {
  if (!answer_.Check(state_.Load(&progress_))) return;
  AddProgress(&answer_.fields());
}

void TrainingApp::FactoryReset() {
  state_.Reset();
  progress_ = {};
  board_->SetLed(LedState::kSaving);
  if (answer_.Check(state_.Clear())) board_->SetLed(LedState::kIdle);
}

void TrainingApp::ReadWeights(FieldReader fields) {
  const int32_t index = fields.U16();
  const uint32_t offset = fields.U32();
  const uint32_t size = fields.U16();
  const void* data = fields.complete() ? state_.Read(index, offset, size) : nullptr;
  if (data == nullptr) {
    answer_.RefuseValues();
    return;
  }
  answer_.fields().Tail(data, size);
}

void TrainingApp::WriteWeights(FieldReader fields) {
  const int32_t index = fields.U16();
  const uint32_t offset = fields.U32();
  if (!fields.good() || !state_.Write(index, offset, fields.rest(), fields.left()))
    answer_.RefuseValues();
}

}  // namespace tflm_zo
