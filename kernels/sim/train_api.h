// SPDX-License-Identifier: Apache-2.0
//
// C interface of the simulator's training: the training ops of a patched model around an engine of
// sim_api.h. Host only.
//
// Use: make an engine of the model without training ops; create a trainer with all tensors of the
// patched model and its training ops, in the order in which they run; run commands; destroy the
// trainer before the engine. Functions that return int32_t return 0, or 1 after an error that
// tflm_zo_sim_trainer_error explains.
#ifndef TFLM_ZO_SIM_TRAIN_API_H_
#define TFLM_ZO_SIM_TRAIN_API_H_

#include <stdint.h>

#include "sim_api.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct TflmZoSimTrainer TflmZoSimTrainer;
typedef struct TflmZoSimSamples TflmZoSimSamples;

// A tensor that training ops name. `type`: an ElementType (op_host.h). `data` is the caller's and
// must outlive the trainer: weights and biases are those that the engine computes with; null for
// activations, which are the engine's.
typedef struct TflmZoSimTrainingTensor {
  int32_t type;
  int32_t elements;
  void* data;
} TflmZoSimTrainingTensor;

// A training op with its custom options. Tensor indices are those of the patched model, -1 for
// inputs that are left out.
typedef struct TflmZoSimTrainingOp {
  const int32_t* inputs;
  int32_t input_count;
  const int32_t* outputs;
  int32_t output_count;
  const char* options;
  int64_t option_bytes;
} TflmZoSimTrainingOp;

// First and last layer that compute with the tensor of a parameter.
typedef struct TflmZoSimTrainingParameter {
  int32_t first_layer;
  int32_t last_layer;
} TflmZoSimTrainingParameter;

// A node op: the layer that it stands behind, the first layer that computes with a tensor that it
// updates, the layer's input and the output that it perturbs or takes as a mask.
typedef struct TflmZoSimTrainingNode {
  TflmZoSimTrainingOp op;
  int32_t number;
  int32_t layer;
  int32_t first_change;
  int32_t input;
  int32_t output;
  int32_t closed_form;
  int32_t accumulates;
} TflmZoSimTrainingNode;

typedef struct TflmZoSimTraining {
  const TflmZoSimTrainingTensor* tensors;
  int32_t tensor_count;
  TflmZoSimTrainingOp parameter_op;
  TflmZoSimTrainingOp loss_op;
  const TflmZoSimTrainingParameter* parameters;
  int32_t parameter_count;
  const TflmZoSimTrainingNode* nodes;
  int32_t node_count;
  int32_t layers;      // layers [0, layers) lead to the logits
  int32_t head_layer;  // the layer that the loss op updates, or -1
  int32_t command;     // tensors
  int32_t target;
  int32_t report;
  int32_t input;
  int32_t logits;
  int32_t features;  // -1 without a head
  int32_t output;
} TflmZoSimTraining;

// Null without memory. After a failure in the ops the trainer exists, and only its error and
// destroy may be used.
TFLM_ZO_SIM_EXPORT TflmZoSimTrainer* tflm_zo_sim_trainer_create(TflmZoSim* sim,
                                                                const TflmZoSimTraining* training);
TFLM_ZO_SIM_EXPORT void tflm_zo_sim_trainer_destroy(TflmZoSimTrainer* trainer);
TFLM_ZO_SIM_EXPORT const char* tflm_zo_sim_trainer_error(const TflmZoSimTrainer* trainer);

// Address of the parameter op's state, for host_api.h; it lives as long as the trainer.
TFLM_ZO_SIM_EXPORT const void* tflm_zo_sim_trainer_state(const TflmZoSimTrainer* trainer);

// Labelled samples that runs name by index: `input` int8 [samples][bytes of the model's input],
// `target` [samples][bytes of the target tensor]; the caller's, and unchanged as long as they are
// in use. With `cache` not 0, what layers that the present settings leave alone make of them is
// computed once and for all (if it fits 1 GiB): as long as they are in use neither these settings
// nor the weights of those layers may change. Null after an error.
TFLM_ZO_SIM_EXPORT TflmZoSimSamples* tflm_zo_sim_samples_create(TflmZoSimTrainer* trainer,
                                                                const int8_t* input,
                                                                const void* target, int64_t samples,
                                                                int32_t cache);
TFLM_ZO_SIM_EXPORT void tflm_zo_sim_samples_destroy(TflmZoSimSamples* samples);

// Carries out `count` passes: pass i with commands[i] (a struct Command of session.h) on sample
// indices[i] of `samples`. Writes reports[i] (a struct Report) and, if `outputs` is not null, the
// model's int8 output.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_trainer_run(TflmZoSimTrainer* trainer,
                                                   const TflmZoSimSamples* samples,
                                                   const void* commands, const int32_t* indices,
                                                   int32_t count, void* reports, int8_t* outputs);

#ifdef __cplusplus
}
#endif

#endif  // TFLM_ZO_SIM_TRAIN_API_H_
