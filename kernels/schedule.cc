// SPDX-License-Identifier: Apache-2.0
#include "schedule.h"

#include "random.h"

namespace tflm_zo {

void Schedule::BeginStep(uint32_t step, int32_t batch, float rate_scale) {
  step_ = step;
  batch_ = batch;
  rate_scale_ = rate_scale;
  sample_ = 0;
  EnterGroup(0);
}

void Schedule::EnterGroup(int32_t group) {
  group_ = group;
  query_ = 0;
  sign_ = 1;
  clear_ = true;
  if (batch_ == 0) {
    phase_ = Phase::kDone;
  } else if (settings_.queries > 0 && group < settings_.group_count) {
    phase_ = settings_.antithetic ? Phase::kQueries : Phase::kBase;
  } else {
    phase_ = settings_.head ? Phase::kHead : Phase::kDone;
  }
}

uint32_t Schedule::GroupSeed() const {
  return StreamKey(settings_.seed, Stream::kStep, step_, static_cast<uint32_t>(group_));
}

void Schedule::FinishGroup() {
  const ScheduleSettings::Group& group = settings_.groups[group_];
  pending_ = true;
  pending_update_ = Command{};
  pending_update_.actions = kUpdate | (settings_.antithetic ? 0u : kForwardDifference);
  pending_update_.update_seed = GroupSeed();
  pending_update_.update_queries = settings_.queries;
  pending_update_.update_first = group.first;
  pending_update_.update_last = group.last;
  const int32_t evaluations = settings_.queries * batch_ * (settings_.antithetic ? 2 : 1);
  pending_update_.update_scale = rate_scale_ / static_cast<float>(evaluations);
  EnterGroup(group_ + 1);
}

void Schedule::TakePending(Command* command) {
  if (!pending_) return;
  command->actions |= pending_update_.actions;
  command->update_seed = pending_update_.update_seed;
  command->update_queries = pending_update_.update_queries;
  command->update_first = pending_update_.update_first;
  command->update_last = pending_update_.update_last;
  command->update_scale = pending_update_.update_scale;
  pending_ = false;
}

bool Schedule::Next(Command* command, int32_t* sample) {
  if (phase_ == Phase::kDone) return false;
  *command = Command{};
  command->magic = kCommandMagic;
  *sample = sample_;
  TakePending(command);
  if (phase_ == Phase::kHead) {
    command->actions |= kLoss | kHeadUpdate;
    command->head_rate = settings_.head_rate * rate_scale_;
    command->head_seed = StreamKey(settings_.seed, Stream::kStep, step_,
                                   static_cast<uint32_t>(kMaxGroups + sample_));
  } else {
    command->actions |= kLoss | kAccumulate | (clear_ ? kClearLosses : 0u);
    command->sign = phase_ == Phase::kBase ? 0 : sign_;
    command->seed = GroupSeed();
    command->query = query_;
    command->first = settings_.groups[group_].first;
    command->last = settings_.groups[group_].last;
    clear_ = false;
  }

  sample_ += 1;
  if (sample_ < batch_) return true;
  sample_ = 0;
  if (phase_ == Phase::kHead) {
    phase_ = Phase::kDone;
  } else if (phase_ == Phase::kBase) {
    phase_ = Phase::kQueries;
  } else if (settings_.antithetic && sign_ > 0) {
    sign_ = -1;
  } else {
    sign_ = 1;
    query_ += 1;
    if (query_ == settings_.queries) FinishGroup();
  }
  return true;
}

bool Schedule::Flush(Command* command) {
  if (!pending_) return false;
  *command = Command{};
  command->magic = kCommandMagic;
  TakePending(command);
  return true;
}

}  // namespace tflm_zo
