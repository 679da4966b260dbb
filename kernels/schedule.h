// SPDX-License-Identifier: Apache-2.0
//
// The order of forward passes that makes a training step. Host and board use this one, so that the
// same seed and samples give the same commands, hence the same weights.
#ifndef TFLM_ZO_KERNELS_SCHEDULE_H_
#define TFLM_ZO_KERNELS_SCHEDULE_H_

#include <cstdint>

#include "session.h"

namespace tflm_zo {

constexpr int kMaxGroups = 64;

struct ScheduleSettings {
  uint32_t seed;        // of the whole run
  int32_t queries;      // directions per group and step, 0 .. kMaxQueries
  int32_t antithetic;   // 1: losses at w + sigma u and w - sigma u; 0: at w + sigma u and w
  int32_t head;         // 1: exact-head update after the queries
  float head_rate;      // its learning rate
  int32_t group_count;  // groups of parameters perturbed together, one group after the other
  struct Group {
    int32_t first;
    int32_t last;
  } groups[kMaxGroups];
};

// Passes of one step: for each group its queries over the whole batch (weights change once per
// query and sign, not once per sample), then the head's pass. The update of a group rides on the
// first pass that follows it, which costs no pass of its own; Flush gives it to a caller who stops.
class Schedule {
 public:
  explicit Schedule(const ScheduleSettings& settings) : settings_(settings) {}

  // Starts a step on `batch` samples. `rate_scale` multiplies every learning rate (a decay, say).
  void BeginStep(uint32_t step, int32_t batch, float rate_scale);

  // The next pass of the step: its command and its sample, 0 .. batch - 1. False at the end of the
  // step.
  bool Next(Command* command, int32_t* sample);

  // If an update is pending, the command that applies it (on any input) and true.
  bool Flush(Command* command);

 private:
  enum class Phase { kBase, kQueries, kHead, kDone };

  void EnterGroup(int32_t group);
  void FinishGroup();
  void TakePending(Command* command);
  uint32_t GroupSeed() const;

  ScheduleSettings settings_;
  Phase phase_ = Phase::kDone;
  uint32_t step_ = 0;
  int32_t batch_ = 0;
  float rate_scale_ = 1.0f;
  int32_t group_ = 0;
  int32_t query_ = 0;
  int32_t sign_ = 1;
  int32_t sample_ = 0;
  bool clear_ = false;
  bool pending_ = false;
  Command pending_update_{};
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_SCHEDULE_H_
