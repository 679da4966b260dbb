// SPDX-License-Identifier: Apache-2.0
#include "training_app.h"

#include <cstring>

#include "crc32.h"

namespace tflm_zo {
namespace {

constexpr uint32_t kReadChunk = 64;

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

Mask ReadMask(FieldReader* fields) {
  Mask mask;
  mask.kind = fields->U16();
  mask.level = fields->U16();
  return mask;
}

}  // namespace

bool TrainingApp::MeasuredRuntime::Invoke() {
  board_->FeedWatchdog();
  const uint32_t start = board_->NowMicros();
  const bool done = runtime_->Invoke();
  pass_micros_ = board_->NowMicros() - start;
  passes_ += 1;
  return done;
}

TrainingApp::TrainingApp(Board* board, const ModelParts& parts, const ModelImage& model,
                         const AppMemory& memory)
    : board_(board),
      model_(model),
      runtime_(parts.rest, board),
      frozen_(parts.frozen, board),
      trainer_({&runtime_, parts.frozen == nullptr ? nullptr : &frozen_}),
      state_(&trainer_, &board->flash(), model.hash),
      decoder_(memory.frame, memory.frame_bytes),
      encoder_(&board->serial()),
      memory_(memory) {}

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
  const bool received = Receive();
  if (job_ == Job::kNone) return received;
  RunJob();
  return true;
}

bool TrainingApp::Receive() {
  uint8_t bytes[kReadChunk];
  const uint32_t count = board_->serial().Read(bytes, sizeof(bytes));
  for (uint32_t i = 0; i < count; ++i) {
    const FrameEvent event = decoder_.Push(bytes[i]);
    if (event == FrameEvent::kFrame) {
      Handle(decoder_.frame());
    } else if (event != FrameEvent::kNone) {
      damaged_frames_ += 1;
    }
  }
  return count != 0;
}

void TrainingApp::Handle(const Frame& frame) {
  if ((frame.type & kAnswerBit) != 0) return;  // an echo of our own
  if (frame.type == static_cast<uint8_t>(Request::kHello)) {
    Hello(frame);
    return;
  }
  if (!in_session_) {
    SendAtOnce(frame, AnswerStatus::kNoSession);
    return;
  }
  const uint32_t crc = Crc32(frame.payload, frame.size);
  const bool again =
      frame.sequence == sequence_ && frame.type == request_type_ && crc == request_crc_;
  if (again && job_ == Job::kNone) {
    SendAnswer();
  } else if (again) {
    SendAtOnce(frame, AnswerStatus::kInWork);
  } else if (job_ != Job::kNone || frame.sequence != static_cast<uint16_t>(sequence_ + 1)) {
    SendAtOnce(frame, AnswerStatus::kOutOfSequence);
  } else {
    sequence_ = frame.sequence;
    request_type_ = frame.type;
    request_crc_ = crc;
    Execute(static_cast<Request>(frame.type), FieldReader(frame.payload, frame.size));
    if (job_ == Job::kNone) SendAnswer();
  }
}

// Says hello to a new session, or once more to the present one, whose numbering goes on.
void TrainingApp::Hello(const Frame& frame) {
  FieldReader fields(frame.payload, frame.size);
  const uint32_t session = fields.U32();
  if (!fields.complete()) return;  // without a session there is nobody to refuse anything to
  const bool continued = in_session_ && session == session_;
  if (!continued && job_ != Job::kNone) {
    SendAtOnce(frame, AnswerStatus::kInWork);
    return;
  }
  if (!continued) {
    in_session_ = true;
    session_ = session;
    sequence_ = frame.sequence;
    request_type_ = frame.type;
    request_crc_ = Crc32(frame.payload, frame.size);
    collected_ = 0;
    batch_.Clear();
    sums_.Reset();
  }
  const bool runs = model_status_ == TrainerStatus::kOk;
  AnswerFields answer;
  answer.Start(AnswerStatus::kOk);
  answer.U16(kMessageVersion).U8(continued ? 1 : 0).U8(static_cast<uint8_t>(model_status_));
  answer.U8(static_cast<uint8_t>(boot_status_)).U32(boot_checkpoint_);
  answer.U64(model_.hash).U32(model_.size);
  answer.U32(trainer_.input_bytes()).U32(trainer_.target_bytes());
  answer.U32(runs ? trainer_.result().bytes : 0);
  answer.U16(static_cast<uint16_t>(trainer_.parameter_count()));
  answer.U16(static_cast<uint16_t>(trainer_.node_count()));
  answer.U16(static_cast<uint16_t>(batch_.capacity()));
  answer.U32(memory_.frame_bytes - kFrameOverhead);
  AddProgress(&answer);
  answer.Text(runs ? BootMessage(boot_status_) : TrainerStatusMessage(model_status_));
  Send(frame.type, frame.sequence, answer);
}

// Answers that are not to be repeated: nothing was carried out.
void TrainingApp::SendAtOnce(const Frame& frame, AnswerStatus status) {
  AnswerFields answer;
  answer.Start(status);
  if (status == AnswerStatus::kInWork) {
    answer.U32(totals_.passes).F32(totals_.loss).U32(totals_.right);
  } else if (status == AnswerStatus::kNoSession) {
    answer.Text("the board has started anew: say hello first");
  } else {
    answer.Text("this request is neither the next one nor a repeat of the last one");
  }
  Send(frame.type, frame.sequence, answer);
}

// An answer that does not get through is not missed: the host repeats its request.
void TrainingApp::Send(uint8_t request_type, uint16_t sequence, const AnswerFields& answer) {
  const auto type = static_cast<uint8_t>(request_type | kAnswerBit);
  encoder_.Begin(type, sequence, answer.size() + answer.tail_size());
  encoder_.Append(answer.data(), answer.size());
  encoder_.Append(answer.tail(), answer.tail_size());
  encoder_.End();
}

void TrainingApp::Refuse(AnswerStatus status, const char* text) {
  answer_.Start(status);
  answer_.Text(text);
  board_->SetLed(LedState::kError);
}

bool TrainingApp::Check(TrainerStatus status) {
  if (status == TrainerStatus::kOk) return true;
  const bool values =
      status == TrainerStatus::kBadParameter || status == TrainerStatus::kBadSettings ||
      status == TrainerStatus::kNoReference || status == TrainerStatus::kTooFewSamples;
  Refuse(values ? AnswerStatus::kBadRequest : AnswerStatus::kModel, TrainerStatusMessage(status));
  return false;
}

bool TrainingApp::Check(CheckpointStatus status) {
  if (status == CheckpointStatus::kOk) return true;
  Refuse(AnswerStatus::kStorage, CheckpointStatusMessage(status));
  return false;
}

void TrainingApp::Execute(Request request, FieldReader fields) {
  answer_.Start(AnswerStatus::kOk);
  if (model_status_ != TrainerStatus::kOk && request != Request::kMetrics &&
      request != Request::kReadModel) {
    Check(model_status_);
    return;
  }
  switch (request) {
    case Request::kHello:
      break;  // never comes here
    case Request::kParameter:
      Parameter(fields);
      break;
    case Request::kMetrics:
      Metrics();
      break;
    case Request::kReadModel:
      ReadModel(fields);
      break;
    case Request::kInfer:
      CollectForPass(request, Job::kInfer, fields, trainer_.input_bytes());
      break;
    case Request::kEvaluate:
      CollectForPass(request, Job::kEvaluate, fields,
                     trainer_.input_bytes() + trainer_.target_bytes());
      break;
    case Request::kTrain:
      Train(fields);
      break;
    case Request::kBeginBatch:
      collected_ = 0;
      batch_.Clear();
      answer_.U16(static_cast<uint16_t>(batch_.capacity()));
      break;
    case Request::kSample:
      CollectSample(fields);
      break;
    case Request::kEndBatch:
      EndBatch(fields);
      break;
    case Request::kFinish:
      Finish();
      break;
    case Request::kBeginObservation:
      BeginObservation();
      break;
    case Request::kObserve:
      Observe(fields);
      break;
    case Request::kRecalibrate:
      Recalibrate();
      break;
    case Request::kSetSchedule:
      SetSchedule(fields);
      break;
    case Request::kSetParameter:
      SetParameter(fields);
      break;
    case Request::kSetNode:
      SetNode(fields);
      break;
    case Request::kCheckpoint:
      SaveCheckpoint();
      break;
    case Request::kRestore:
      Restore();
      break;
    case Request::kFactoryReset:
      FactoryReset();
      break;
    case Request::kReadWeights:
      ReadWeights(fields);
      break;
    case Request::kWriteWeights:
      WriteWeights(fields);
      break;
    default:
      Refuse(AnswerStatus::kUnknownRequest, "this firmware does not know the request: update it");
  }
}

void TrainingApp::Parameter(FieldReader fields) {
  const int32_t index = fields.U16();
  ParameterView view;
  if (!fields.complete() || !trainer_.ReadParameter(index, &view)) {
    RefuseValues();
    return;
  }
  answer_.U8(static_cast<uint8_t>(view.entry->kind)).U8(view.entry->exact != 0 ? 1 : 0);
  answer_.I32(view.entry->layer).U32(static_cast<uint32_t>(view.count));
  answer_.I32(view.entry->headroom).U32(MomentCount(view));
}

void TrainingApp::Metrics() {
  AddProgress(&answer_);
  answer_.U32(totals_.passes).F32(totals_.loss).U32(totals_.right);
  answer_.U32(runtime_.passes()).U32(runtime_.pass_micros()).U32(damaged_frames_);
  answer_.U32(trainer_.frozen_runs());
}

void TrainingApp::ReadModel(FieldReader fields) {
  const uint32_t offset = fields.U32();
  const uint32_t size = fields.U16();
  if (!fields.complete() || offset > model_.size || size > model_.size - offset) {
    RefuseValues();
    return;
  }
  answer_.Tail(model_.data + offset, size);
}

// Puts a piece of a record where it belongs. Pieces come in order, and one at offset 0 starts anew.
TrainingApp::Collected TrainingApp::Collect(Request request, uint32_t offset, const uint8_t* data,
                                            uint32_t size, uint32_t record_bytes) {
  if (offset == 0) {
    collecting_ = request;
    collected_ = 0;
  }
  uint8_t* record = batch_.next_input();
  if (record == nullptr) {
    Refuse(AnswerStatus::kBadRequest, "no room for another sample: end the batch first");
    return Collected::kRefused;
  }
  if (request != collecting_ || offset != collected_ || size > record_bytes - collected_ ||
      size == 0) {
    Refuse(AnswerStatus::kBadRequest,
           "the sample has another size than the model's input and label, or its pieces are out of "
           "order");
    return Collected::kRefused;
  }
  std::memcpy(record + offset, data, size);
  collected_ += size;
  if (collected_ != record_bytes) return Collected::kPart;
  collected_ = 0;
  return Collected::kAll;
}

void TrainingApp::CollectForPass(Request request, Job job, FieldReader fields,
                                 uint32_t record_bytes) {
  const uint32_t offset = fields.U32();
  if (!fields.good()) {
    RefuseValues();
  } else if (Collect(request, offset, fields.rest(), fields.left(), record_bytes) ==
             Collected::kAll) {
    job_ = job;
    totals_ = {};
    board_->SetLed(LedState::kInferring);
  }
}

void TrainingApp::CollectSample(FieldReader fields) {
  const uint32_t offset = fields.U32();
  const uint32_t record_bytes = trainer_.input_bytes() + trainer_.target_bytes();
  if (!fields.good()) {
    RefuseValues();
    return;
  }
  const Collected collected =
      Collect(Request::kSample, offset, fields.rest(), fields.left(), record_bytes);
  if (collected == Collected::kRefused) return;
  if (collected == Collected::kAll && !TakeSample()) return;
  answer_.U16(static_cast<uint16_t>(batch_.size()));
}

// Adds the sample that has come in to the batch; false: once the frozen layers have run on it.
bool TrainingApp::TakeSample() {
  if (!trainer_.reduces()) {
    batch_.Commit();
    return true;
  }
  job_ = Job::kReduce;
  totals_ = {};
  board_->SetLed(LedState::kTraining);
  return false;
}

void TrainingApp::FinishSample() {
  if (!Check(trainer_.Reduce(batch_.next_input()))) {
    EndJob(LedState::kError);
    return;
  }
  batch_.Commit();
  if (collecting_ == Request::kTrain) {
    job_ = Job::kNone;
    StartStep(step_, rate_scale_);
    if (job_ == Job::kNone) EndJob(LedState::kError);
    return;
  }
  answer_.U16(static_cast<uint16_t>(batch_.size()));
  EndJob();
}

void TrainingApp::Train(FieldReader fields) {
  const uint32_t step = fields.U32();
  const float rate_scale = fields.F32();
  const uint32_t offset = fields.U32();
  const uint32_t record_bytes = trainer_.input_bytes() + trainer_.target_bytes();
  if (!fields.good()) {
    RefuseValues();
  } else if (batch_.size() != 0) {
    Refuse(AnswerStatus::kBadRequest, "a batch is being filled: end it, or begin a new one");
  } else if (Collect(Request::kTrain, offset, fields.rest(), fields.left(), record_bytes) ==
             Collected::kAll) {
    step_ = step;
    rate_scale_ = rate_scale;
    if (TakeSample()) StartStep(step, rate_scale);
  }
}

void TrainingApp::EndBatch(FieldReader fields) {
  const uint32_t step = fields.U32();
  const float rate_scale = fields.F32();
  if (!fields.complete()) {
    RefuseValues();
  } else if (batch_.size() == 0 || collected_ != 0) {
    Refuse(AnswerStatus::kBadRequest, "the batch has no samples, or the last one is not complete");
  } else {
    StartStep(step, rate_scale);
  }
}

void TrainingApp::StartStep(uint32_t step, float rate_scale) {
  if (!Check(trainer_.BeginStep(step, batch_.size(), rate_scale))) {
    batch_.Clear();
    return;
  }
  job_ = Job::kStep;
  step_ = step;
  totals_ = {};
  board_->SetLed(LedState::kTraining);
}

void TrainingApp::RunJob() {
  switch (job_) {
    case Job::kNone:
      break;
    case Job::kInfer:
      if (Check(trainer_.Infer(batch_.next_input()))) {
        const TensorMemory result = trainer_.result();
        answer_.I32(trainer_.PredictedClass()).Tail(result.data, result.bytes);
        EndJob();
      } else {
        EndJob(LedState::kError);
      }
      break;
    case Job::kEvaluate:
      if (Check(trainer_.Evaluate(batch_.next_input(), batch_.next_target()))) {
        const Report& report = trainer_.report();
        answer_.I32(trainer_.PredictedClass()).F32(report.loss).F32(report.feature_energy);
        EndJob();
      } else {
        EndJob(LedState::kError);
      }
      break;
    case Job::kReduce:
      FinishSample();
      break;
    case Job::kStep:
      RunStepPass();
      break;
  }
}

void TrainingApp::RunStepPass() {
  int32_t sample;
  if (!trainer_.NextPass(&sample)) {
    progress_.steps = step_ + 1;
    answer_.U32(totals_.passes).F32(totals_.loss).U32(totals_.right);
    batch_.Clear();
    EndJob();
    return;
  }
  if (!Check(trainer_.RunReduced(batch_.kept(sample), batch_.target(sample)))) {
    batch_.Clear();
    EndJob(LedState::kError);
    return;
  }
  progress_.passes += 1;
  totals_.passes += 1;
  totals_.loss += trainer_.report().loss;
  if (runtime_.Input(kTargetInput).is_int8) return;  // a vector, not a class
  int32_t label;
  std::memcpy(&label, batch_.target(sample), sizeof(label));
  if (trainer_.report().prediction == label) totals_.right += 1;
}

void TrainingApp::EndJob(LedState led) {
  job_ = Job::kNone;
  board_->SetLed(led);
  SendAnswer();
}

// Applies the update that the last step left pending.
bool TrainingApp::FinishStep() {
  const uint32_t before = runtime_.passes();
  const TrainerStatus status = trainer_.Finish(nullptr, nullptr);
  progress_.passes += runtime_.passes() - before;
  return Check(status);
}

void TrainingApp::Finish() {
  const uint32_t before = progress_.passes;
  if (FinishStep()) answer_.U32(progress_.passes - before);
}

bool TrainingApp::CanObserve() {
  if (trainer_.reference_channels() == 0) return Check(TrainerStatus::kNoReference);
  if (sums_.channels() != 0) return true;
  Refuse(AnswerStatus::kBadRequest,
         "this sketch has no memory to recalibrate with: export the model again");
  return false;
}

void TrainingApp::BeginObservation() {
  if (!CanObserve()) return;
  collected_ = 0;
  sums_.Reset();
  answer_.U32(static_cast<uint32_t>(sums_.channels()));
}

void TrainingApp::Observe(FieldReader fields) {
  const uint32_t offset = fields.U32();
  if (!CanObserve()) return;
  if (!fields.good()) {
    RefuseValues();
    return;
  }
  const Collected collected =
      Collect(Request::kObserve, offset, fields.rest(), fields.left(), trainer_.input_bytes());
  if (collected == Collected::kRefused) return;
  if (collected == Collected::kAll) {
    sums_.Add(reinterpret_cast<const int8_t*>(batch_.next_input()));
  }
  answer_.U32(sums_.samples());
}

// The next sample that is observed begins a new set.
void TrainingApp::Recalibrate() {
  if (!CanObserve()) return;
  const uint32_t before = runtime_.passes();
  const TrainerStatus status = trainer_.Recalibrate(sums_);
  progress_.passes += runtime_.passes() - before;
  if (!Check(status)) return;
  answer_.U32(sums_.samples());
  sums_.Reset();
}

void TrainingApp::AddProgress(AnswerFields* answer) const {
  answer->U32(progress_.run).U32(progress_.steps).U32(progress_.passes).F32(progress_.head_rate);
}

void TrainingApp::SetSchedule(FieldReader fields) {
  const uint32_t run = fields.U32();
  const uint32_t step = fields.U32();
  const int32_t largest_batch = fields.U16();
  ScheduleSettings settings{};
  settings.seed = fields.U32();
  settings.antithetic = fields.U8();
  settings.exact = fields.U8();
  settings.accumulate = fields.U8();
  settings.head_rate = fields.F32();
  settings.group_count = fields.U8();
  if (settings.group_count > kMaxGroups) {
    RefuseValues();
    return;
  }
  for (int32_t g = 0; g < settings.group_count; ++g) {
    ScheduleGroup& group = settings.groups[g];
    group.mode = fields.U8();
    group.queries = fields.U8();
    group.first = fields.U16();
    group.last = fields.U16();
  }
  if (!fields.complete() || largest_batch > batch_.capacity() || settings.antithetic > 1 ||
      settings.exact > 2 || settings.accumulate > 1) {
    RefuseValues();
    return;
  }
  if (!Check(trainer_.SetSchedule(settings, largest_batch))) return;
  const bool goes_on = run == progress_.run && step != 0;
  progress_ = {run, step, goes_on ? progress_.passes : 0, settings.head_rate};
}

void TrainingApp::SetParameter(FieldReader fields) {
  const int32_t index = fields.U16();
  const int32_t sigma = fields.I32();
  const float rate = fields.F32();
  const Mask mask = ReadMask(&fields);
  if (!fields.complete()) {
    RefuseValues();
    return;
  }
  Check(trainer_.SetParameter(index, sigma, rate, mask));
}

void TrainingApp::SetNode(FieldReader fields) {
  const int32_t node = fields.U16();
  const int32_t sigma = fields.I32();
  const int32_t block = fields.I32();
  const float rate = fields.F32();
  const Mask mask = ReadMask(&fields);
  if (!fields.complete()) {
    RefuseValues();
    return;
  }
  Check(trainer_.SetNode(node, sigma, block, rate, mask));
}

void TrainingApp::SaveCheckpoint() {
  if (!FinishStep()) return;
  board_->SetLed(LedState::kSaving);
  CheckpointInfo info{};
  if (!Check(state_.Save(progress_)) || !Check(state_.Newest(&info))) return;
  answer_.U32(info.sequence);
  board_->SetLed(LedState::kIdle);
}

void TrainingApp::Restore() {
  if (!Check(state_.Load(&progress_))) return;
  AddProgress(&answer_);
}

void TrainingApp::FactoryReset() {
  state_.Reset();
  progress_ = {};
  board_->SetLed(LedState::kSaving);
  if (Check(state_.Clear())) board_->SetLed(LedState::kIdle);
}

void TrainingApp::ReadWeights(FieldReader fields) {
  const int32_t index = fields.U16();
  const uint32_t offset = fields.U32();
  const uint32_t size = fields.U16();
  const void* data = fields.complete() ? state_.Read(index, offset, size) : nullptr;
  if (data == nullptr) {
    RefuseValues();
    return;
  }
  answer_.Tail(data, size);
}

void TrainingApp::WriteWeights(FieldReader fields) {
  const int32_t index = fields.U16();
  const uint32_t offset = fields.U32();
  if (!fields.good() || !state_.Write(index, offset, fields.rest(), fields.left())) RefuseValues();
}

}  // namespace tflm_zo
