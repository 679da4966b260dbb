// SPDX-License-Identifier: Apache-2.0
//
// The order of forward passes that makes a training step. Host and board use this one, so that the
// same seed and samples give the same commands, hence the same weights.
#ifndef TFLM_ZO_KERNELS_SCHEDULE_H_
#define TFLM_ZO_KERNELS_SCHEDULE_H_

#include <cstdint>

#include "session.h"

namespace tflm_zo {

constexpr int kMaxGroups = 63;

// How a group is perturbed.
enum GroupMode : int32_t {
  kBatchDirections = 0,   // parameters; a direction is measured on the whole batch
  kSampleDirections = 1,  // parameters; every sample has directions of its own (antithetic only)
  kNodes = 2,             // nodes, sample by sample
};

// What exact gradients update.
enum class Exact : int32_t { kNothing = 0, kAll = 1, kBeforeHead = 2 };

// Parameters or nodes [first, last) that are perturbed together.
struct ScheduleGroup {
  int32_t mode;  // a GroupMode
  int32_t first;
  int32_t last;
  int32_t queries;  // directions: a step's (kBatchDirections) or a sample's; at least 1
};

struct ScheduleSettings {
  uint32_t seed;       // of the whole run
  int32_t antithetic;  // 1: losses at +sigma u and -sigma u; 0: at +sigma u and at the clean model
  int32_t exact;       // an Exact
  float head_rate;     // the head's learning rate
  int32_t
      accumulate;  // 1: nodes collect their gradient over the batch, 0: apply it sample by sample
  int32_t group_count;
  ScheduleGroup groups[kMaxGroups];  // in order of mode
};

// Passes of one step:
// - for each kBatchDirections group its queries over the whole batch: weights change once per query
// and sign;
// - for each kSampleDirections group, sample by sample, its queries;
// - sample by sample, for each kNodes group its queries and a clean pass that updates its nodes.
// The update of a parameter group rides on the first pass that follows it, which costs no pass of
// its own; Flush gives it to a caller who stops. The exact update of a sample rides on the last
// pass that the sample has anyway (the update pass of the last node group, else the last query of
// kSampleDirections), else it gets one of its own.
class Schedule {
 public:
  explicit Schedule(const ScheduleSettings& settings) : settings_(settings) {}

  // Whether the settings can be run with batches of `batch` samples: modes in order, at most
  // kMaxQueries directions at a time, sample directions antithetic.
  static bool Valid(const ScheduleSettings& settings, int32_t batch);

  // Starts a step on `batch` samples. `rate_scale` multiplies every learning rate (a decay, say).
  void BeginStep(uint32_t step, int32_t batch, float rate_scale);

  // The next pass of the step: its command and its sample, 0 .. batch - 1. False at the end.
  bool Next(Command* command, int32_t* sample);

  // If an update is pending, the command that applies it (on any input) and true.
  bool Flush(Command* command);

 private:
  // kBase: clean losses for forward differences. kClean: the clean pass that updates nodes or exact
  // layers.
  enum class Phase { kBase, kQueries, kClean, kDone };

  const ScheduleGroup& Group() const { return settings_.groups[group_]; }
  bool InGroup(int32_t mode) const {
    return group_ < settings_.group_count && Group().mode == mode;
  }
  bool LastGroup() const { return group_ + 1 >= settings_.group_count; }
  int32_t FirstNodeGroup() const;
  bool ExactOnQueries() const;
  uint32_t GroupSeed() const;
  int32_t QueriesOfUpdate() const;

  void EnterGroup(int32_t group, int32_t sample);
  void EnterCleanPasses();
  void FinishParameterGroup();
  void MarkEndsOfBatch(Command* command) const;
  void AddExactUpdate(Command* command) const;
  void FillQuery(Command* command) const;
  void FillClean(Command* command) const;
  void TakePending(Command* command);
  void Advance();
  void AdvanceQuery();

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
