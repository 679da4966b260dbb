// SPDX-License-Identifier: Apache-2.0
//
// The interface of the app on the host, which tflm_zo/serial/virtual_board.py uses.
#ifndef TFLM_ZO_MICRO_APP_HOST_APP_H_
#define TFLM_ZO_MICRO_APP_HOST_APP_H_

#include <cstdint>

#include "host_export.h"
#include "recalibrate.h"

// Tensors of the model, memory that the caller owns and that stays where it is.
typedef struct TflmZoTensor {
  void* data;
  uint32_t bytes;
  int32_t is_int8;
} TflmZoTensor;

typedef int32_t (*TflmZoInvoke)(void);    // runs a model on its tensors; 0: it failed
typedef void (*TflmZoShow)(int32_t led);  // a LedState (hal.h)

typedef struct TflmZoHostConfig {
  int32_t line;    // file descriptor of the serial line, not blocking
  uint8_t* flash;  // erased flash reads 0xFF
  uint32_t flash_bytes;
  uint32_t page_bytes;
  const uint8_t* model;
  uint32_t model_bytes;
  uint64_t model_hash;
  uint32_t batch_bytes;       // for samples with their labels
  uint32_t frame_bytes;       // for one received frame
  tflm_zo::ChannelSum* sums;  // `channels` of them, to recalibrate with
  uint32_t channels;
  TflmZoTensor inputs[4];
  TflmZoTensor outputs[2];
  TflmZoInvoke invoke;
  const void* state;  // of the parameter op, as the plugin says (host_plugin.h)
  // Of the frozen layers in front, if they are a model of their own.
  TflmZoTensor frozen_input[1];
  TflmZoTensor frozen_outputs[2];
  TflmZoInvoke invoke_frozen;
  TflmZoShow show;
} TflmZoHostConfig;

// Null without memory. `config` is copied, what it points to is not.
TFLM_ZO_EXPORT void* tflm_zo_app_new(const TflmZoHostConfig* config);
TFLM_ZO_EXPORT void tflm_zo_app_free(void* app);
// Returns what became of the checkpoint, a CheckpointStatus (checkpoint.h).
TFLM_ZO_EXPORT int32_t tflm_zo_app_start(void* app);
// Whether the model runs: a TrainerStatus (trainer_status.h).
TFLM_ZO_EXPORT int32_t tflm_zo_app_model_status(void* app);
// Returns 1 if there is more to do at once, 0 if the app waits for the line.
TFLM_ZO_EXPORT int32_t tflm_zo_app_poll(void* app);

#endif  // TFLM_ZO_MICRO_APP_HOST_APP_H_
