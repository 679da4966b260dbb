// SPDX-License-Identifier: Apache-2.0
#ifndef TFLM_ZO_MICRO_APP_TRAINING_PROGRESS_H_
#define TFLM_ZO_MICRO_APP_TRAINING_PROGRESS_H_

#include <cstdint>

namespace tflm_zo {

// How far training has come; part of every checkpoint, and of answers to a host.
struct TrainingProgress {
  uint32_t run;     // name that the host gave the training run; 0: none
  uint32_t steps;   // number of the next step
  uint32_t passes;  // forward passes of training
  float head_rate;  // the exact layers' learning rate, which a host may have found by measuring
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_TRAINING_PROGRESS_H_
