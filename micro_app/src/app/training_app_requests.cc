// SPDX-License-Identifier: Apache-2.0
//
// The requests of a host, one function each. docs/protocol.md has their fields.
#include "training_app.h"

namespace tflm_zo {
namespace {

// Fills in what a training step is made of. False if a field is out of the protocol's range; the
// trainer checks the rest.
bool ReadSchedule(const ScheduleRequest& request, FieldReader* fields, ScheduleSettings* settings) {
  *settings = {};
  settings->seed = request.seed;
  settings->antithetic = request.antithetic;
  settings->exact = request.exact;
  settings->accumulate = request.accumulate;
  settings->head_rate = request.head_rate;
  settings->group_count = request.group_count;
  if (settings->group_count > kMaxGroups) return false;
  for (int32_t g = 0; g < settings->group_count; ++g) {
    const auto group = fields->Take<GroupFields>();
    settings->groups[g] = {group.mode, group.first, group.last, group.queries};
  }
  return settings->antithetic <= 1 && settings->exact <= static_cast<int32_t>(Exact::kBeforeHead) &&
         settings->accumulate <= 1;
}

}  // namespace

void TrainingApp::Parameter(FieldReader fields) {
  const int32_t index = fields.Take<ParameterRequest>().index;
  ParameterView view;
  if (!fields.complete() || !trainer_.ReadParameter(index, &view)) {
    answer_.RefuseValues();
    return;
  }
  ParameterAnswer found{};
  found.kind = static_cast<uint8_t>(view.entry->kind);
  found.exact = view.entry->exact != 0 ? 1 : 0;
  found.layer = view.entry->layer;
  found.count = static_cast<uint32_t>(view.count);
  found.headroom = view.entry->headroom;
  found.moments = MomentCount(view);
  answer_.fields().Set(found);
}

void TrainingApp::Metrics() {
  MetricsAnswer found{};
  found.progress = progress_;
  found.last_step = jobs_.totals();
  found.passes = runtime_.passes();
  found.pass_micros = runtime_.pass_micros();
  found.damaged_frames = session_.damaged_frames();
  found.frozen_runs = trainer_.frozen_runs();
  answer_.fields().Set(found);
}

void TrainingApp::ReadModel(FieldReader fields) {
  const auto request = fields.Take<ReadModelRequest>();
  if (!fields.complete() || request.offset > model_.size ||
      request.size > model_.size - request.offset) {
    answer_.RefuseValues();
    return;
  }
  answer_.fields().Tail(model_.data + request.offset, request.size);
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
  const auto request = fields.Take<StepRequest>();
  const RecordPiece piece = ReadPiece(&fields);
  if (!fields.good()) {
    answer_.RefuseValues();
  } else if (batch_.size() != 0) {
    answer_.Refuse(AnswerStatus::kBadRequest,
                   "a batch is being filled: end it, or begin a new one");
  } else if (collector_.Collect(Request::kTrain, piece, record_bytes()) ==
             SampleCollector::Result::kComplete) {
    jobs_.AddSampleAndTrain(request.step, request.rate_scale);
  }
}

void TrainingApp::BeginBatch() {
  collector_.Reset();
  batch_.Clear();
  answer_.fields().Set(BatchAnswer{static_cast<uint16_t>(batch_.capacity())});
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
      answer_.fields().Set(BatchAnswer{static_cast<uint16_t>(batch_.size())});
      return;
    case SampleCollector::Result::kComplete:
      jobs_.AddSample();
  }
}

void TrainingApp::EndBatch(FieldReader fields) {
  const auto request = fields.Take<StepRequest>();
  if (!fields.complete()) {
    answer_.RefuseValues();
  } else if (batch_.size() == 0 || collector_.incomplete()) {
    answer_.Refuse(AnswerStatus::kBadRequest,
                   "the batch has no samples, or the last one is not complete");
  } else {
    jobs_.Train(request.step, request.rate_scale);
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
  if (ApplyPendingUpdate()) answer_.fields().Set(PassesAnswer{progress_.passes - before});
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
  answer_.fields().Set(ChannelsAnswer{static_cast<uint32_t>(sums_.channels())});
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
  answer_.fields().Set(ObservedAnswer{sums_.samples()});
}

// Ends the observation: a sample that is observed after it begins the next one.
void TrainingApp::Recalibrate() {
  if (!CanObserve()) return;
  const uint32_t before = runtime_.passes();
  const TrainerStatus status = trainer_.Recalibrate(sums_);
  progress_.passes += runtime_.passes() - before;
  if (!answer_.Check(status)) return;
  answer_.fields().Set(ObservedAnswer{sums_.samples()});
  sums_.Reset();
}

void TrainingApp::SetSchedule(FieldReader fields) {
  const auto request = fields.Take<ScheduleRequest>();
  ScheduleSettings settings;
  if (!ReadSchedule(request, &fields, &settings) || !fields.complete() ||
      request.largest_batch > batch_.capacity()) {
    answer_.RefuseValues();
    return;
  }
  if (!answer_.Check(trainer_.SetSchedule(settings, request.largest_batch))) return;
  const bool goes_on = request.run == progress_.run && request.step != 0;
  progress_ = {request.run, request.step, goes_on ? progress_.passes : 0, request.head_rate};
}

void TrainingApp::SetParameter(FieldReader fields) {
  const auto request = fields.Take<SetParameterRequest>();
  if (!fields.complete()) {
    answer_.RefuseValues();
    return;
  }
  answer_.Check(trainer_.SetParameter(request.index, request.sigma, request.rate, request.mask));
}

void TrainingApp::SetNode(FieldReader fields) {
  const auto request = fields.Take<SetNodeRequest>();
  if (!fields.complete()) {
    answer_.RefuseValues();
    return;
  }
  answer_.Check(
      trainer_.SetNode(request.node, request.sigma, request.block, request.rate, request.mask));
}

void TrainingApp::SaveCheckpoint() {
  if (!ApplyPendingUpdate()) return;
  board_->SetLed(LedState::kSaving);
  CheckpointInfo info{};
  if (!answer_.Check(state_.Save(progress_)) || !answer_.Check(state_.Newest(&info))) return;
  answer_.fields().Set(CheckpointAnswer{info.sequence});
  board_->SetLed(LedState::kIdle);
}

void TrainingApp::Restore() {
  if (!answer_.Check(state_.Load(&progress_))) return;
  answer_.fields().Set(progress_);
}

void TrainingApp::FactoryReset() {
  state_.Reset();
  progress_ = {};
  board_->SetLed(LedState::kSaving);
  if (answer_.Check(state_.Clear())) board_->SetLed(LedState::kIdle);
}

void TrainingApp::ReadWeights(FieldReader fields) {
  const auto request = fields.Take<ReadWeightsRequest>();
  const void* data =
      fields.complete() ? state_.Read(request.index, request.offset, request.size) : nullptr;
  if (data == nullptr) {
    answer_.RefuseValues();
    return;
  }
  answer_.fields().Tail(data, request.size);
}

void TrainingApp::WriteWeights(FieldReader fields) {
  const auto request = fields.Take<WriteWeightsRequest>();
  if (!fields.good() ||
      !state_.Write(request.index, request.offset, fields.rest(), fields.left())) {
    answer_.RefuseValues();
  }
}

}  // namespace tflm_zo
