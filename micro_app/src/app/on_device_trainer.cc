// SPDX-License-Identifier: Apache-2.0
#include "on_device_trainer.h"

#include <cstring>

#include "parameter_perturbation.h"

namespace tflm_zo {
namespace {

Command CleanCommand(uint32_t actions) {
  Command command{};
  command.magic = kCommandMagic;
  command.actions = actions;
  return command;
}

bool ValidSettings(const ScheduleSettings& settings, int32_t batch, int32_t parameter_count,
                   int32_t node_count) {
  if (!Schedule::Valid(settings, batch)) return false;
  // The negated comparison also refuses a NaN.
  if (!(settings.head_rate >= 0.0f && settings.head_rate < 1e30f)) return false;
  for (int32_t g = 0; g < settings.group_count; ++g) {
    const ScheduleGroup& group = settings.groups[g];
    const int32_t count = group.mode == kNodes ? node_count : parameter_count;
    if (group.first < 0 || group.first > group.last || group.last > count) return false;
  }
  return true;
}

}  // namespace

TrainerStatus OnDeviceTrainer::Start() {
  state_ = nullptr;
  kept_sample_ = -1;
  input_ = runtime_->Input(kSampleInput);
  target_ = runtime_->Input(kTargetInput);
  const TensorMemory command = runtime_->Input(kCommandInputTensor);
  const TensorMemory report = runtime_->Output(kReportOutput);
  if (input_.data == nullptr || target_.data == nullptr || command.data == nullptr ||
      command.bytes != sizeof(Command) || report.data == nullptr ||
      report.bytes != sizeof(Report)) {
    return TrainerStatus::kNotPatched;
  }
  // Any sample will do: the pass makes the parameter op copy the initial weights.
  std::memset(input_.data, 0, input_.bytes);
  if (frozen_.exist()) {
    if (!frozen_.Start()) return TrainerStatus::kNotPatched;
    input_ = frozen_.input();
    reduces_ = frozen_.output_bytes() <= input_.bytes;
  }
  const TrainerStatus status = Pass(CleanCommand(0), nullptr);
  if (status != TrainerStatus::kOk) return status;
  if (report_.magic != kReportMagic) return TrainerStatus::kOtherVersion;
  const uint64_t address = runtime_->StateAddress(
      report_.state_address[0] | static_cast<uint64_t>(report_.state_address[1]) << 32);
  state_ = reinterpret_cast<const ParameterState*>(static_cast<uintptr_t>(address));
  return TrainerStatus::kOk;
}

bool OnDeviceTrainer::RunFrozen(const void* input) {
  kept_sample_ = -1;
  return frozen_.Run(input);
}

bool OnDeviceTrainer::SetInput(const void* input) {
  if (!frozen_.exist()) {
    std::memcpy(input_.data, input, input_.bytes);
    return true;
  }
  if (!RunFrozen(input)) return false;
  frozen_.HandOver();
  return true;
}

TrainerStatus OnDeviceTrainer::PassOn(const void* input, const Command& command,
                                      const void* target) {
  if (state_ == nullptr) return TrainerStatus::kNotStarted;
  return SetInput(input) ? Pass(command, target) : TrainerStatus::kPassFailed;
}

// nullptr leaves the target as it is.
TrainerStatus OnDeviceTrainer::Pass(const Command& command, const void* target) {
  // Later layers may overwrite input tensors, so all are set before each pass, except those that
  // the frozen layers have filled, which the model keeps.
  if (target != nullptr) std::memcpy(target_.data, target, target_.bytes);
  std::memcpy(runtime_->Input(kCommandInputTensor).data, &command, sizeof(command));
  if (!runtime_->Invoke()) return TrainerStatus::kPassFailed;
  std::memcpy(&report_, runtime_->Output(kReportOutput).data, sizeof(report_));
  return TrainerStatus::kOk;
}

TrainerStatus OnDeviceTrainer::Infer(const void* input) {
  return PassOn(input, CleanCommand(0), nullptr);
}

TrainerStatus OnDeviceTrainer::Evaluate(const void* input, const void* target) {
  return PassOn(input, CleanCommand(kLoss), target);
}

TrainerStatus OnDeviceTrainer::Measure(const void* input, const void* target, int32_t first_node,
                                       int32_t last_node) {
  if (state_ == nullptr) return TrainerStatus::kNotStarted;
  if (first_node < 0 || first_node > last_node || last_node > node_count()) {
    return TrainerStatus::kBadParameter;
  }
  Command command = CleanCommand(kLoss | kMeasure);
  command.node_first = first_node;
  command.node_last = last_node;
  return PassOn(input, command, target);
}

int32_t OnDeviceTrainer::PredictedClass() const {
  const TensorMemory result = runtime_->Output(kResultOutput);
  // One sigmoid unit has no largest output; the loss op compares its logit with zero.
  if (!result.is_int8 || result.bytes < 2) return report_.prediction;
  const auto* codes = static_cast<const int8_t*>(result.data);
  uint32_t best = 0;
  for (uint32_t j = 1; j < result.bytes; ++j) {
    if (codes[j] > codes[best]) best = j;
  }
  return static_cast<int32_t>(best);
}

TrainerStatus OnDeviceTrainer::SetParameter(int32_t index, int32_t sigma, float rate, Mask mask) {
  if (state_ == nullptr) return TrainerStatus::kNotStarted;
  return Configure(*state_, index, sigma, rate, mask) ? TrainerStatus::kOk
                                                      : TrainerStatus::kBadParameter;
}

TrainerStatus OnDeviceTrainer::SetNode(int32_t node, int32_t sigma, int32_t block, float rate,
                                       Mask mask) {
  if (state_ == nullptr) return TrainerStatus::kNotStarted;
  return ConfigureNode(*state_, node, sigma, block, rate, mask) ? TrainerStatus::kOk
                                                                : TrainerStatus::kBadParameter;
}

TrainerStatus OnDeviceTrainer::SetSchedule(const ScheduleSettings& settings,
                                           int32_t largest_batch) {
  if (state_ == nullptr) return TrainerStatus::kNotStarted;
  if (!ValidSettings(settings, largest_batch, parameter_count(), node_count())) {
    return TrainerStatus::kBadSettings;
  }
  Abort();
  settings_ = settings;
  largest_batch_ = largest_batch;
  schedule_ = Schedule(settings_);
  return TrainerStatus::kOk;
}

TrainerStatus OnDeviceTrainer::BeginStep(uint32_t step, int32_t batch, float rate_scale) {
  if (state_ == nullptr) return TrainerStatus::kNotStarted;
  if (batch < 1 || batch > largest_batch_) return TrainerStatus::kBadSettings;
  if (!(rate_scale >= 0.0f && rate_scale < 1e30f)) return TrainerStatus::kBadSettings;
  schedule_.BeginStep(step, batch, rate_scale);
  announced_ = false;
  kept_sample_ = -1;
  return TrainerStatus::kOk;
}

bool OnDeviceTrainer::NextPass(int32_t* sample) {
  announced_ = state_ != nullptr && schedule_.Next(&next_, &next_sample_);
  if (announced_) *sample = next_sample_;
  return announced_;
}

TrainerStatus OnDeviceTrainer::RunPass(const void* input, const void* target) {
  if (!announced_) return TrainerStatus::kNoPass;
  return StepPass(target, next_sample_ == kept_sample_ || SetInput(input));
}

TrainerStatus OnDeviceTrainer::Reduce(void* input) {
  if (state_ == nullptr) return TrainerStatus::kNotStarted;
  if (!reduces_) return TrainerStatus::kOk;
  if (!RunFrozen(input)) return TrainerStatus::kPassFailed;
  frozen_.SaveOutputs(input);
  return TrainerStatus::kOk;
}

TrainerStatus OnDeviceTrainer::RunReduced(const void* kept, const void* target) {
  if (!reduces_) return RunPass(kept, target);
  if (!announced_) return TrainerStatus::kNoPass;
  if (next_sample_ != kept_sample_) frozen_.HandOver(kept);
  return StepPass(target, true);
}

TrainerStatus OnDeviceTrainer::StepPass(const void* target, bool input_is_set) {
  announced_ = false;
  const TrainerStatus status = input_is_set ? Pass(next_, target) : TrainerStatus::kPassFailed;
  if (status != TrainerStatus::kOk) {
    Abort();
  } else if (frozen_.exist()) {
    kept_sample_ = next_sample_;
  }
  return status;
}

TrainerStatus OnDeviceTrainer::Finish(const void* input, const void* target) {
  if (state_ == nullptr) return TrainerStatus::kNotStarted;
  announced_ = false;
  TrainerStatus status = TrainerStatus::kOk;
  Command command;
  if (schedule_.Flush(&command)) {
    // The sample does not matter, so the frozen layers need not run.
    if (!frozen_.exist() && input != nullptr) SetInput(input);
    status = Pass(command, target);
  }
  RestoreClean(*state_);
  return status;
}

void OnDeviceTrainer::Abort() {
  announced_ = false;
  kept_sample_ = -1;
  schedule_ = Schedule(settings_);
  if (state_ != nullptr) RestoreClean(*state_);
}

int32_t OnDeviceTrainer::reference_channels() const {
  return state_ == nullptr ? 0 : state_->options->reference_channels;
}

TrainerStatus OnDeviceTrainer::Recalibrate(const ChannelSums& sums) {
  if (state_ == nullptr) return TrainerStatus::kNotStarted;
  switch (CheckRecalibration(*state_, sums)) {
    case RecalibrationStatus::kOk:
      break;
    case RecalibrationStatus::kNoReference:
      return TrainerStatus::kNoReference;
    case RecalibrationStatus::kOtherChannels:
      return TrainerStatus::kBadParameter;
    case RecalibrationStatus::kTooFewSamples:
      return TrainerStatus::kTooFewSamples;
  }
  const TrainerStatus status = Finish(nullptr, nullptr);
  if (status == TrainerStatus::kOk) tflm_zo::Recalibrate(*state_, sums);
  return status;
}

int32_t OnDeviceTrainer::parameter_count() const {
  return state_ == nullptr ? 0 : state_->options->parameter_count;
}

int32_t OnDeviceTrainer::node_count() const {
  return state_ == nullptr ? 0 : state_->options->node_count;
}

bool OnDeviceTrainer::ReadParameter(int32_t index, ParameterView* view) {
  if (state_ == nullptr) return false;
  RestoreClean(*state_);
  return GetParameter(*state_, index, view);
}

TrainerStatus OnDeviceTrainer::WriteParameter(int32_t index, const void* data, int32_t count) {
  if (state_ == nullptr) return TrainerStatus::kNotStarted;
  return tflm_zo::WriteParameter(*state_, index, data, count) ? TrainerStatus::kOk
                                                              : TrainerStatus::kBadParameter;
}

}  // namespace tflm_zo
