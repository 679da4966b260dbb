// SPDX-License-Identifier: Apache-2.0
//
// What Python needs of the ops on any host: the state that the parameter op keeps in an
// interpreter's arena (tflm_zo/ops/compiled.py), the schedule of passes, the formulas of rates. The
// state lies where the ops of the plugin or of the simulator have put it; all three libraries are
// linked from the same compiled sources, so they agree on its layout.
#include "host_api.h"

#include <new>

#include "exact_rates.h"
#include "parameter_perturbation.h"
#include "parameter_state.h"

namespace {

const tflm_zo::ParameterState& State(const void* state) {
  return *static_cast<const tflm_zo::ParameterState*>(state);
}

}  // namespace

int tflm_zo_parameter(const void* state, int index, void** data, int* count) {
  tflm_zo::ParameterView view;
  if (!tflm_zo::GetParameter(State(state), index, &view)) return -1;
  *data = view.data;
  *count = view.count;
  return view.entry->kind;
}

void tflm_zo_restore_clean(const void* state) { tflm_zo::RestoreClean(State(state)); }

int tflm_zo_configure(const void* state, int index, int sigma, float rate, uint16_t mask_kind,
                      uint16_t mask_level) {
  return tflm_zo::Configure(State(state), index, sigma, rate, {mask_kind, mask_level}) ? 1 : 0;
}

int tflm_zo_configure_node(const void* state, int node, int sigma, int block, float rate,
                           uint16_t mask_kind, uint16_t mask_level) {
  const tflm_zo::Mask mask{mask_kind, mask_level};
  return tflm_zo::ConfigureNode(State(state), node, sigma, block, rate, mask) ? 1 : 0;
}

int tflm_zo_write_parameter(const void* state, int index, const void* data, int count) {
  return tflm_zo::WriteParameter(State(state), index, data, count) ? 1 : 0;
}

int tflm_zo_recalibrate(const void* state, tflm_zo::ChannelSum* memory, int channels,
                        const int8_t* samples, int64_t count, uint32_t sample_bytes) {
  tflm_zo::ChannelSums sums(memory, channels, sample_bytes);
  for (int64_t i = 0; i < count; ++i) sums.Add(samples + i * sample_bytes);
  return static_cast<int>(tflm_zo::Recalibrate(State(state), sums));
}

float* tflm_zo_moments(const void* state, int index) {
  tflm_zo::ParameterView view;
  return tflm_zo::GetParameter(State(state), index, &view) ? view.moments : nullptr;
}

double tflm_zo_limit_before_head(double head_limit) { return tflm_zo::LimitBeforeHead(head_limit); }

void tflm_zo_exact_rates(double head_limit, double feature_energy, double layer_energy,
                         double* rates) {
  const auto found = tflm_zo::RatesOf(head_limit, feature_energy, layer_energy);
  rates[0] = found.head;
  rates[1] = found.before_head;
}

int tflm_zo_schedule_valid(const tflm_zo::ScheduleSettings* settings, int batch) {
  return tflm_zo::Schedule::Valid(*settings, batch) ? 1 : 0;
}

void* tflm_zo_schedule_new(const tflm_zo::ScheduleSettings* settings) {
  return new (std::nothrow) tflm_zo::Schedule(*settings);
}

void tflm_zo_schedule_free(void* schedule) { delete static_cast<tflm_zo::Schedule*>(schedule); }

void tflm_zo_schedule_begin(void* schedule, uint32_t step, int batch, float rate_scale) {
  static_cast<tflm_zo::Schedule*>(schedule)->BeginStep(step, batch, rate_scale);
}

int tflm_zo_schedule_next(void* schedule, tflm_zo::Command* command, int* sample) {
  return static_cast<tflm_zo::Schedule*>(schedule)->Next(command, sample) ? 1 : 0;
}

int tflm_zo_schedule_step(void* schedule, uint32_t step, int batch, float rate_scale,
                          tflm_zo::Command* commands, int* samples, int capacity) {
  auto& passes = *static_cast<tflm_zo::Schedule*>(schedule);
  passes.BeginStep(step, batch, rate_scale);
  int count = 0;
  tflm_zo::Command command;
  int sample;
  while (passes.Next(&command, &sample)) {
    if (count == capacity) return -1;
    commands[count] = command;
    samples[count] = sample;
    ++count;
  }
  return count;
}

int tflm_zo_schedule_flush(void* schedule, tflm_zo::Command* command) {
  return static_cast<tflm_zo::Schedule*>(schedule)->Flush(command) ? 1 : 0;
}
