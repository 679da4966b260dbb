// SPDX-License-Identifier: Apache-2.0
#include "schedule.h"

#include "random.h"

namespace tflm_zo {

bool Schedule::Valid(const ScheduleSettings& settings, int32_t batch) {
  if (batch < 1 || settings.group_count < 0 || settings.group_count > kMaxGroups) return false;
  for (int32_t g = 0; g < settings.group_count; ++g) {
    const ScheduleGroup& group = settings.groups[g];
    const bool sample_directions = group.mode == kSampleDirections;
    const int64_t directions =
        static_cast<int64_t>(group.queries) * (sample_directions ? batch : 1);
    if (group.mode < kBatchDirections || group.mode > kNodes) return false;
    if (group.queries < 1 || directions > kMaxQueries) return false;
    if (sample_directions && !settings.antithetic) return false;
    if (g > 0 && group.mode < settings.groups[g - 1].mode) return false;
  }
  return true;
}

void Schedule::BeginStep(uint32_t step, int32_t batch, float rate_scale) {
  step_ = step;
  batch_ = batch;
  rate_scale_ = rate_scale;
  EnterGroup(0, 0);
}

int32_t Schedule::FirstNodeGroup() const {
  int32_t g = 0;
  while (g < settings_.group_count && settings_.groups[g].mode != kNodes) ++g;
  return g;
}

// Whether exact updates ride on the queries of sample directions: on those of the last such group,
// if no node group follows.
bool Schedule::ExactOnQueries() const {
  return settings_.group_count > 0 &&
         settings_.groups[settings_.group_count - 1].mode == kSampleDirections;
}

void Schedule::EnterGroup(int32_t group, int32_t sample) {
  group_ = group;
  query_ = 0;
  sign_ = 1;
  sample_ = sample;
  clear_ = true;
  if (group_ == settings_.group_count) {
    EnterCleanPasses();
  } else {
    phase_ = settings_.antithetic ? Phase::kQueries : Phase::kBase;
  }
}

// All groups are done and no node group exists: what is left is the exact update, sample by sample.
void Schedule::EnterCleanPasses() {
  const bool nodes = FirstNodeGroup() < settings_.group_count;
  phase_ = settings_.exact && !nodes && !ExactOnQueries() ? Phase::kClean : Phase::kDone;
}

// Every parameter group of a step, and every node group of each of its samples, has directions of
// its own.
uint32_t Schedule::GroupSeed() const {
  const int32_t block = InGroup(kNodes) ? sample_ + 1 : 0;
  return StreamKey(settings_.seed, Stream::kStep, step_,
                   static_cast<uint32_t>((kMaxGroups + 1) * block + group_));
}

int32_t Schedule::QueriesOfUpdate() const {
  return Group().queries * (Group().mode == kSampleDirections ? batch_ : 1);
}

void Schedule::FinishParameterGroup() {
  pending_ = true;
  pending_update_ = Command{};
  pending_update_.actions = kUpdate;
  if (!settings_.antithetic) pending_update_.actions |= kForwardDifference;
  pending_update_.update_seed = GroupSeed();
  pending_update_.update_queries = QueriesOfUpdate();
  pending_update_.update_first = Group().first;
  pending_update_.update_last = Group().last;
  const int32_t evaluations = Group().queries * batch_ * (settings_.antithetic ? 2 : 1);
  pending_update_.update_scale = 1.0f / static_cast<float>(evaluations);
  pending_update_.update_rate = rate_scale_;
  EnterGroup(group_ + 1, 0);
}

void Schedule::TakePending(Command* command) {
  if (!pending_) return;
  command->actions |= pending_update_.actions;
  command->update_seed = pending_update_.update_seed;
  command->update_queries = pending_update_.update_queries;
  command->update_first = pending_update_.update_first;
  command->update_last = pending_update_.update_last;
  command->update_scale = pending_update_.update_scale;
  command->update_rate = pending_update_.update_rate;
  pending_ = false;
}

void Schedule::MarkEndsOfBatch(Command* command) const {
  if (sample_ == 0) command->actions |= kNodeBegin;
  if (sample_ + 1 == batch_) command->actions |= kNodeApply;
}

void Schedule::AddExactUpdate(Command* command) const {
  if (!settings_.exact) return;
  command->actions |= kHeadUpdate;
  MarkEndsOfBatch(command);
  command->head_rate = settings_.exact == static_cast<int32_t>(Exact::kAll)
                           ? settings_.head_rate * rate_scale_
                           : 0.0f;
  command->head_seed =
      StreamKey(settings_.seed, Stream::kStep, step_,
                static_cast<uint32_t>((kMaxGroups + 1) * (sample_ + 1) + kMaxGroups));
}

void Schedule::FillQuery(Command* command) const {
  const bool base = phase_ == Phase::kBase;
  const bool nodes = InGroup(kNodes);
  const bool sample_directions = InGroup(kSampleDirections);
  command->actions |= kLoss | kAccumulate;
  if (clear_) command->actions |= kClearLosses;
  command->sign = base ? 0 : sign_;
  command->seed = GroupSeed();
  command->query = sample_directions ? sample_ * Group().queries + query_ : query_;
  (nodes ? command->node_first : command->first) = Group().first;
  (nodes ? command->node_last : command->last) = Group().last;
  const bool last_of_sample = sign_ < 0 && query_ + 1 == Group().queries;
  if (sample_directions && last_of_sample && LastGroup()) AddExactUpdate(command);
}

void Schedule::FillClean(Command* command) const {
  command->actions |= kLoss;
  MarkEndsOfBatch(command);
  if (InGroup(kNodes)) {
    command->actions |= kNodeUpdate;
    if (!settings_.antithetic) command->actions |= kForwardDifference;
    command->update_seed = GroupSeed();
    command->update_queries = Group().queries;
    command->update_first = Group().first;
    command->update_last = Group().last;
    command->update_scale =
        1.0f / static_cast<float>(Group().queries * (settings_.antithetic ? 2 : 1));
    if (LastGroup()) AddExactUpdate(command);
  } else {
    AddExactUpdate(command);
  }
}

bool Schedule::Next(Command* command, int32_t* sample) {
  if (phase_ == Phase::kDone) return false;
  *command = Command{};
  command->magic = kCommandMagic;
  *sample = sample_;
  command->node_rate =
      settings_.accumulate ? rate_scale_ / static_cast<float>(batch_) : rate_scale_;
  if (phase_ == Phase::kClean) {
    FillClean(command);
  } else {
    FillQuery(command);
    clear_ = false;
  }
  TakePending(command);
  Advance();
  return true;
}

void Schedule::Advance() {
  if (phase_ != Phase::kClean) {
    AdvanceQuery();
    return;
  }
  if (InGroup(kNodes) && !LastGroup()) {
    EnterGroup(group_ + 1, sample_);
    return;
  }
  sample_ += 1;
  if (sample_ == batch_) {
    phase_ = Phase::kDone;
  } else if (InGroup(kNodes)) {
    EnterGroup(FirstNodeGroup(), sample_);
  }
}

void Schedule::AdvanceQuery() {
  // Batch directions go through all samples before the weights change again; the others stay with a
  // sample.
  if (InGroup(kBatchDirections)) {
    sample_ += 1;
    if (sample_ < batch_) return;
    sample_ = 0;
  }
  if (phase_ == Phase::kBase) {
    phase_ = Phase::kQueries;
    return;
  }
  if (settings_.antithetic && sign_ > 0) {
    sign_ = -1;
    return;
  }
  sign_ = 1;
  query_ += 1;
  if (query_ < Group().queries) return;
  query_ = 0;
  if (InGroup(kNodes)) {
    phase_ = Phase::kClean;
    return;
  }
  if (InGroup(kSampleDirections)) {
    sample_ += 1;
    if (sample_ < batch_) return;
  }
  FinishParameterGroup();
}

bool Schedule::Flush(Command* command) {
  if (!pending_) return false;
  *command = Command{};
  command->magic = kCommandMagic;
  TakePending(command);
  return true;
}

}  // namespace tflm_zo
