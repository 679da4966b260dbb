// SPDX-License-Identifier: Apache-2.0
//
// What Python asks the plugin for TFLM's wheel (tflm_zo/tflm/plugin.py).
#ifndef TFLM_ZO_KERNELS_HOST_PLUGIN_H_
#define TFLM_ZO_KERNELS_HOST_PLUGIN_H_

#include "host_export.h"

// The state of the parameter op that this thread has prepared last, and forgets it; null if it has
// prepared none since. Who makes an interpreter learns so where the state of its op is, without
// believing a tensor of the model.
TFLM_ZO_EXPORT void* tflm_zo_take_state();

#endif  // TFLM_ZO_KERNELS_HOST_PLUGIN_H_
