// SPDX-License-Identifier: Apache-2.0
#include "training_stream.h"

#include "crc32.h"
#include "text_line.h"

namespace tflm_zo {

bool TrainingStream::Fail(const char* message) {
  sink_->Print(TextLine().Add("error: ").Add(message).Add("\n").text());
  return false;
}

bool TrainingStream::Check(TrainerStatus status) {
  return status == TrainerStatus::kOk || Fail(TrainerStatusMessage(status));
}

bool TrainingStream::ReadHeader() {
  StreamHeader head;
  if (!Get(&head)) return false;
  if (head.magic != kStreamMagic || head.version != kStreamVersion) {
    return Fail("not a training stream of this version");
  }
  if (head.input_bytes != trainer_->input_bytes() ||
      head.target_bytes != trainer_->target_bytes()) {
    return Fail("the stream was made for another model: its samples have another size");
  }
  if (memory_bytes_ < head.input_bytes + head.target_bytes)
    return Fail("the memory for samples is too small");

  return ReadSchedule() && ReadParameters() && ReadNodes();
}

bool TrainingStream::ReadSchedule() {
  StreamSchedule schedule;
  if (!Get(&schedule)) return false;
  ScheduleSettings settings{};
  settings.seed = schedule.seed;
  settings.antithetic = schedule.antithetic;
  settings.exact = schedule.exact;
  settings.head_rate = schedule.head_rate;
  settings.accumulate = schedule.accumulate;
  settings.group_count = schedule.group_count;
  if (settings.group_count < 0 || settings.group_count > kMaxGroups) {
    return Fail("the stream has more groups than the ops know");
  }
  for (int32_t g = 0; g < settings.group_count; ++g) {
    if (!Get(&settings.groups[g])) return false;
  }
  return Check(trainer_->SetSchedule(settings, schedule.largest_step));
}

bool TrainingStream::ReadParameters() {
  int32_t count;
  if (!Get(&count)) return false;
  if (count != trainer_->parameter_count()) {
    return Fail("the stream was made for another model: it has another number of parameters");
  }
  for (int32_t p = 0; p < count; ++p) {
    Setting set;
    ParameterView view;
    if (!Get(&set) || !trainer_->ReadParameter(p, &view)) return false;
    if (view.initial == nullptr) continue;
    if (!Check(trainer_->SetParameter(p, set.sigma, set.rate, set.mask))) return false;
  }
  return true;
}

bool TrainingStream::ReadNodes() {
  int32_t count;
  if (!Get(&count)) return false;
  if (count != trainer_->node_count()) {
    return Fail("the stream was made for another model: it has another number of nodes");
  }
  for (int32_t n = 0; n < count; ++n) {
    NodeSetting set;
    if (!Get(&set)) return false;
    if (!Check(trainer_->SetNode(n, set.sigma, set.block, set.rate, set.mask))) return false;
  }
  return true;
}

bool TrainingStream::Step() {
  StreamStep head;
  if (!Get(&head)) return false;
  const uint32_t input_bytes = trainer_->input_bytes();
  const uint32_t target_bytes = trainer_->target_bytes();
  SampleBatch batch = MakeBatch();
  if (head.samples < 1 || head.samples > batch.capacity()) {
    return Fail("the step has more samples than the memory holds");
  }
  for (int32_t i = 0; i < head.samples; ++i) {
    if (!source_->Read(batch.next_input(), input_bytes) ||
        !source_->Read(batch.next_target(), target_bytes)) {
      return Fail("the stream ends too early");
    }
    if (!Check(trainer_->Reduce(batch.next_input()))) return false;
    batch.Commit();
  }
  if (!Check(trainer_->BeginStep(head.step, head.samples, head.rate_scale))) return false;
  int32_t sample;
  while (trainer_->NextPass(&sample)) {
    if (!Check(trainer_->RunReduced(batch.kept(sample), batch.target(sample)))) return false;
    passes_ += 1;
  }
  steps_ += 1;
  return true;
}

bool TrainingStream::Finish() {
  SampleBatch sample = MakeBatch();
  if (!source_->Read(sample.next_input(), trainer_->input_bytes()) ||
      !source_->Read(sample.next_target(), trainer_->target_bytes())) {
    return Fail("the stream ends too early");
  }
  return Check(trainer_->Finish(sample.next_input(), sample.next_target()));
}

bool TrainingStream::Evaluate() {
  uint32_t samples;
  if (!Get(&samples)) return false;
  if (samples == 0) return Fail("an evaluation without samples");
  const uint32_t input_bytes = trainer_->input_bytes();
  const uint32_t target_bytes = trainer_->target_bytes();
  // A class index is one int32; regression has no accuracy.
  uint32_t right = 0;
  float loss = 0.0f;
  for (uint32_t i = 0; i < samples; ++i) {
    SampleBatch one = MakeBatch();
    if (!source_->Read(one.next_input(), input_bytes) ||
        !source_->Read(one.next_target(), target_bytes)) {
      return Fail("the stream ends too early");
    }
    if (!Check(trainer_->Evaluate(one.next_input(), one.next_target()))) return false;
    int32_t label = -1;
    if (target_bytes == sizeof(label)) std::memcpy(&label, one.next_target(), sizeof(label));
    right += trainer_->PredictedClass() == label ? 1u : 0u;
    loss += trainer_->report().loss;
  }
  TextLine line;
  line.Add("evaluated ").AddNumber(samples).Add(" samples: ").AddNumber(right).Add(" right, loss ");
  sink_->Print(line.AddDecimal(loss / static_cast<float>(samples)).Add("\n").text());
  return true;
}

bool TrainingStream::Recalibrate() {
  uint32_t samples;
  if (!Get(&samples)) return false;
  const int32_t channels = trainer_->reference_channels();
  if (channels == 0) return Check(TrainerStatus::kNoReference);
  if (static_cast<uint32_t>(channels) > channels_) {
    return Fail("the memory for recalibration is too small");
  }
  ChannelSums sums(sums_, channels, trainer_->input_bytes());
  for (uint32_t i = 0; i < samples; ++i) {
    if (!source_->Read(memory_, trainer_->input_bytes())) {
      return Fail("the stream ends too early");
    }
    sums.Add(reinterpret_cast<const int8_t*>(memory_));
  }
  return Check(trainer_->Recalibrate(sums));
}

SampleBatch TrainingStream::MakeBatch() const {
  return SampleBatch(memory_, memory_bytes_, trainer_->input_bytes(), trainer_->target_bytes(),
                     trainer_->kept_bytes());
}

uint32_t TrainingStream::WeightsCrc() {
  uint32_t crc = 0;
  ParameterView view;
  for (int32_t p = 0; trainer_->ReadParameter(p, &view); ++p) {
    const size_t bytes = view.count * ElementBytes(view.entry->kind);
    crc = Crc32(view.data, static_cast<uint32_t>(bytes), crc);
  }
  return crc;
}

bool TrainingStream::Run() {
  if (!ReadHeader()) return false;
  for (;;) {
    StreamItem item;
    if (!Get(&item)) return false;
    bool done = false;
    switch (item) {
      case StreamItem::kEnd: {
        TextLine line;
        line.Add("trained ").AddNumber(steps_).Add(" steps, ").AddNumber(passes_);
        line.Add(" passes; weights crc32 ").AddHex(WeightsCrc()).Add("\n");
        sink_->Print(line.text());
        if (trainer_->frozen_runs() != 0) {
          TextLine runs;
          runs.Add("frozen layers ran ").AddNumber(trainer_->frozen_runs()).Add(" times\n");
          sink_->Print(runs.text());
        }
        return true;
      }
      case StreamItem::kStep:
        done = Step();
        break;
      case StreamItem::kFinish:
        done = Finish();
        break;
      case StreamItem::kEvaluate:
        done = Evaluate();
        break;
      case StreamItem::kRecalibrate:
        done = Recalibrate();
        break;
      default:
        return Fail("the stream is damaged: unknown item");
    }
    if (!done) return false;
  }
}

}  // namespace tflm_zo
