// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <initializer_list>

#include "check.h"
#include "schedule.h"
#include "vectors.h"

using namespace tflm_zo;

namespace {

struct Count {
  int32_t passes = 0;
  int32_t updates = 0;
  int32_t node_updates = 0;
  int32_t exact = 0;
  int32_t begins = 0;
  int32_t applies = 0;
  uint32_t digest = 0;
};

Count Run(const ScheduleSettings& settings, int32_t batch) {
  CHECK(Schedule::Valid(settings, batch));
  Schedule schedule(settings);
  Count count;
  for (uint32_t step = 0; step < 2; ++step) {
    schedule.BeginStep(step, batch, 0.5f);
    Command command;
    int32_t sample;
    while (schedule.Next(&command, &sample)) {
      CHECK(sample >= 0 && sample < batch);
      count.passes += 1;
      count.updates += (command.actions & kUpdate) != 0;
      count.node_updates += (command.actions & kNodeUpdate) != 0;
      count.exact += (command.actions & kHeadUpdate) != 0;
      count.begins += (command.actions & kNodeBegin) != 0;
      count.applies += (command.actions & kNodeApply) != 0;
      count.digest = count.digest * 31u + Digest(&command, 1) + static_cast<uint32_t>(sample);
    }
  }
  Command command;
  count.updates += schedule.Flush(&command);
  CHECK(!schedule.Flush(&command));
  return count;
}

ScheduleSettings Settings(bool antithetic) {
  ScheduleSettings settings{};
  settings.seed = 42;
  settings.antithetic = antithetic;
  settings.exact = 1;
  settings.head_rate = 0.1f;
  return settings;
}

}  // namespace

TEST(ExactAloneIsOnePassASample) {
  const Count count = Run(Settings(true), 5);
  CHECK_EQ(count.passes, 10);
  CHECK_EQ(count.exact, 10);
  CHECK_EQ(count.begins, 2);
  CHECK_EQ(count.applies, 2);
}

TEST(HeadMayStayFrozenBesideExactLayers) {
  for (const int32_t exact : {1, 2}) {
    ScheduleSettings settings = Settings(true);
    settings.exact = exact;
    Schedule schedule(settings);
    schedule.BeginStep(0, 1, 0.5f);
    Command command;
    int32_t sample;
    CHECK(schedule.Next(&command, &sample));
    CHECK((command.actions & kHeadUpdate) != 0);
    CHECK_EQ(command.head_rate, exact == 1 ? 0.05f : 0.0f);
  }
}

TEST(BatchDirectionsTakeTwoPassesAQueryAndUpdateForFree) {
  ScheduleSettings settings = Settings(true);
  settings.group_count = 2;
  settings.groups[0] = {kBatchDirections, 0, 2, 3};
  settings.groups[1] = {kBatchDirections, 2, 4, 3};
  Count count = Run(settings, 5);
  CHECK_EQ(count.passes, 2 * (2 * 3 * 2 * 5 + 5));
  CHECK_EQ(count.updates, 4);
  CHECK_EQ(count.digest, 3389722371u);
  settings.antithetic = 0;
  count = Run(settings, 5);
  CHECK_EQ(count.passes, 2 * (2 * (3 + 1) * 5 + 5));
}

TEST(ExactUpdatesRideOnSampleDirections) {
  ScheduleSettings settings = Settings(true);
  settings.group_count = 1;
  settings.groups[0] = {kSampleDirections, 0, 2, 1};
  const Count count = Run(settings, 5);
  CHECK_EQ(count.passes, 2 * 2 * 5);
  CHECK_EQ(count.exact, 2 * 5);
  CHECK_EQ(count.begins, 2);
  CHECK_EQ(count.applies, 2);
  CHECK_EQ(count.updates, 2);
  CHECK_EQ(count.digest, 80854187u);
  CHECK(!Schedule::Valid(settings, 65));  // more directions than the loss table holds
}

TEST(NodesAreUpdatedSampleBySample) {
  ScheduleSettings settings = Settings(true);
  settings.group_count = 2;
  settings.groups[0] = {kNodes, 0, 1, 4};
  settings.groups[1] = {kNodes, 1, 2, 4};
  const Count count = Run(settings, 3);
  CHECK_EQ(count.passes, 2 * 3 * 2 * (2 * 4 + 1));
  CHECK_EQ(count.node_updates, 2 * 3 * 2);
  CHECK_EQ(count.exact, 2 * 3);
  CHECK_EQ(count.digest, 1066300815u);
}

CHECK_MAIN()
