// SPDX-License-Identifier: Apache-2.0
//
// The C interface to the ops' state and to the schedule, for Python on a host. `state` is the
// address that reports give.
#ifndef TFLM_ZO_KERNELS_HOST_API_H_
#define TFLM_ZO_KERNELS_HOST_API_H_

#include <cstdint>

#include "host_export.h"
#include "recalibrate.h"
#include "schedule.h"
#include "session.h"

// Address and element count of a parameter; returns its kind, or -1 if there is none.
TFLM_ZO_EXPORT int tflm_zo_parameter(const void* state, int index, void** data, int* count);

TFLM_ZO_EXPORT void tflm_zo_restore_clean(const void* state);

TFLM_ZO_EXPORT int tflm_zo_configure(const void* state, int index, int sigma, float rate,
                                     uint16_t mask_kind, uint16_t mask_level);

TFLM_ZO_EXPORT int tflm_zo_configure_node(const void* state, int node, int sigma, int block,
                                          float rate, uint16_t mask_kind, uint16_t mask_level);

TFLM_ZO_EXPORT int tflm_zo_write_parameter(const void* state, int index, const void* data,
                                           int count);

// Recalibrates the input adapter by `count` samples of `sample_bytes` codes each. memory: a
// ChannelSum for each of `channels`. Returns a RecalibrationStatus.
TFLM_ZO_EXPORT int tflm_zo_recalibrate(const void* state, tflm_zo::ChannelSum* memory, int channels,
                                       const int8_t* samples, int64_t count, uint32_t sample_bytes);

// Address of a parameter's momentum state, or null; it has 2 * elements floats.
TFLM_ZO_EXPORT float* tflm_zo_moments(const void* state, int index);

TFLM_ZO_EXPORT double tflm_zo_limit_before_head(double head_limit);

// Writes the learning rates of the head and of the layers before it.
TFLM_ZO_EXPORT void tflm_zo_exact_rates(double head_limit, double feature_energy,
                                        double layer_energy, double* rates);

TFLM_ZO_EXPORT int tflm_zo_schedule_valid(const tflm_zo::ScheduleSettings* settings, int batch);

TFLM_ZO_EXPORT void* tflm_zo_schedule_new(const tflm_zo::ScheduleSettings* settings);

TFLM_ZO_EXPORT void tflm_zo_schedule_free(void* schedule);

TFLM_ZO_EXPORT void tflm_zo_schedule_begin(void* schedule, uint32_t step, int batch,
                                           float rate_scale);

TFLM_ZO_EXPORT int tflm_zo_schedule_next(void* schedule, tflm_zo::Command* command, int* sample);

// All passes of a step at once: at most `capacity` commands and samples. Returns how many there
// are, or -1 if there are more.
TFLM_ZO_EXPORT int tflm_zo_schedule_step(void* schedule, uint32_t step, int batch, float rate_scale,
                                         tflm_zo::Command* commands, int* samples, int capacity);

TFLM_ZO_EXPORT int tflm_zo_schedule_flush(void* schedule, tflm_zo::Command* command);

#endif  // TFLM_ZO_KERNELS_HOST_API_H_
