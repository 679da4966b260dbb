// SPDX-License-Identifier: Apache-2.0
#include "training_app.h"

namespace tflm_zo {
namespace {

const char* BootMessage(CheckpointStatus status) {
  switch (status) {
    case CheckpointStatus::kOk:
      return "the newest checkpoint is restored";
    case CheckpointStatus::kFlashFailure:
      return "the flash failed while a checkpoint was read: the factory weights are in use";
    case CheckpointStatus::kBadGeometry:
      return "this flash cannot hold checkpoints: the factory weights are in use";
    default:
      return CheckpointStatusMessage(status);
  }
}

}  // namespace

TrainingApp::TrainingApp(Board* board, const ModelParts& parts, const ModelImage& model,
                         const AppMemory& memory)
    : board_(board),
      model_(model),
      memory_(memory),
      runtime_(parts.rest, board),
      frozen_(parts.frozen, board),
      trainer_({&runtime_, parts.frozen == nullptr ? nullptr : &frozen_}),
      state_(&trainer_, &board->flash(), model.hash),
      answer_(board),
      session_(&board->serial(), memory.frame, memory.frame_bytes, &answer_.fields()),
      collector_(&batch_, &answer_),
      jobs_(board, &trainer_, &batch_, &answer_, &progress_) {}

CheckpointStatus TrainingApp::Start() {
  model_status_ = trainer_.Start();
  if (model_status_ == TrainerStatus::kOk) {
    batch_ = SampleBatch(memory_.samples, memory_.sample_bytes, trainer_.input_bytes(),
                         trainer_.target_bytes(), trainer_.kept_bytes());
    const int32_t channels = trainer_.reference_channels();
    if (channels > 0 && static_cast<uint32_t>(channels) <= memory_.channels) {
      sums_ = ChannelSums(memory_.sums, channels, trainer_.input_bytes());
    }
    boot_status_ = state_.Load(&progress_);
    CheckpointInfo info;
    if (boot_status_ == CheckpointStatus::kOk && state_.Newest(&info) == CheckpointStatus::kOk) {
      boot_checkpoint_ = info.sequence;
    }
  }
  board_->SetLed(model_status_ == TrainerStatus::kOk ? LedState::kIdle : LedState::kError);
  return boot_status_;
}

bool TrainingApp::Poll() {
  board_->FeedWatchdog();
  const bool received = session_.Receive(this);
  if (!jobs_.in_work()) return received;
  if (jobs_.RunPass()) session_.SendAnswer();
  return true;
}

void TrainingApp::BeginSession() {
  collector_.Reset();
  batch_.Clear();
  sums_.Reset();
}

void TrainingApp::AnswerHello(bool continued, AnswerFields* answer) {
  const bool runs = model_status_ == TrainerStatus::kOk;
  HelloAnswer hello{};
  hello.version = kMessageVersion;
  hello.continued = continued ? 1 : 0;
  hello.model_status = static_cast<uint8_t>(model_status_);
  hello.boot_status = static_cast<uint8_t>(boot_status_);
  hello.boot_checkpoint = boot_checkpoint_;
  hello.model_hash = model_.hash;
  hello.model_bytes = model_.size;
  hello.input_bytes = trainer_.input_bytes();
  hello.target_bytes = trainer_.target_bytes();
  hello.output_bytes = runs ? trainer_.result().bytes : 0;
  hello.parameters = static_cast<uint16_t>(trainer_.parameter_count());
  hello.nodes = static_cast<uint16_t>(trainer_.node_count());
  hello.batch_capacity = static_cast<uint16_t>(batch_.capacity());
  hello.max_payload = memory_.frame_bytes - kFrameOverhead;
  hello.progress = progress_;
  answer->Set(hello).Text(runs ? BootMessage(boot_status_) : TrainerStatusMessage(model_status_));
}

void TrainingApp::Execute(Request request, FieldReader fields) {
  answer_.fields().Start(AnswerStatus::kOk);
  const bool needs_model = request != Request::kMetrics && request != Request::kReadModel;
  if (needs_model && !answer_.Check(model_status_)) return;
  switch (request) {
    case Request::kHello:
      return;  // the session answers it
    case Request::kParameter:
      return Parameter(fields);
    case Request::kMetrics:
      return Metrics();
    case Request::kReadModel:
      return ReadModel(fields);
    case Request::kInfer:
      return Infer(fields);
    case Request::kEvaluate:
      return Evaluate(fields);
    case Request::kTrain:
      return Train(fields);
    case Request::kBeginBatch:
      return BeginBatch();
    case Request::kSample:
      return Sample(fields);
    case Request::kEndBatch:
      return EndBatch(fields);
    case Request::kFinish:
      return Finish();
    case Request::kBeginObservation:
      return BeginObservation();
    case Request::kObserve:
      return Observe(fields);
    case Request::kRecalibrate:
      return Recalibrate();
    case Request::kSetSchedule:
      return SetSchedule(fields);
    case Request::kSetParameter:
      return SetParameter(fields);
    case Request::kSetNode:
      return SetNode(fields);
    case Request::kCheckpoint:
      return SaveCheckpoint();
    case Request::kRestore:
      return Restore();
    case Request::kFactoryReset:
      return FactoryReset();
    case Request::kReadWeights:
      return ReadWeights(fields);
    case Request::kWriteWeights:
      return WriteWeights(fields);
  }
  answer_.Refuse(AnswerStatus::kUnknownRequest,
                 "this firmware does not know the request: update it");
}

}  // namespace tflm_zo
