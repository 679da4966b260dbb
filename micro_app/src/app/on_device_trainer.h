// SPDX-License-Identifier: Apache-2.0
//
// Training on the device: carries out the passes of the schedule in whatever engine runs the model.
//
// One pass at a time, so that the caller can feed a watchdog, answer its host and show progress in
// between:
//
//   trainer.BeginStep(step, batch, rate_scale);
//   while (trainer.NextPass(&sample)) trainer.RunPass(input[sample], target[sample]);
//
// Frozen layers in front, if they are an engine of their own, run once for successive passes on a
// sample. A step that goes over its batch again and again can do without running them again: where
// what they make of a sample is smaller than the sample, it is kept instead (Reduce, RunReduced).
//
// Same model, settings and samples give the same weights, to the bit, as the Python Trainer.
#ifndef TFLM_ZO_MICRO_APP_ON_DEVICE_TRAINER_H_
#define TFLM_ZO_MICRO_APP_ON_DEVICE_TRAINER_H_

#include <cstdint>

#include "frozen_layers.h"
#include "model_runtime.h"
#include "parameter_state.h"
#include "recalibrate.h"
#include "schedule.h"
#include "session.h"
#include "trainer_status.h"

namespace tflm_zo {

class OnDeviceTrainer {
 public:
  // The engines must outlive the trainer, and have their tensors allocated before Start().
  explicit OnDeviceTrainer(const ModelParts& parts) : runtime_(parts.rest), frozen_(parts) {}

  // Checks the model and runs a first pass, which brings the initial weights from flash to RAM.
  TrainerStatus Start();

  // Sizes of a sample and of its label, in bytes: int8 codes; the label is int32 (a class) or int8
  // codes.
  uint32_t input_bytes() const { return input_.bytes; }
  uint32_t target_bytes() const { return target_.bytes; }
  bool target_is_class() const { return !target_.is_int8 && target_.bytes == sizeof(int32_t); }
  // What a batch keeps of a sample: the sample itself, or what the frozen layers make of it.
  uint32_t kept_bytes() const { return reduces_ ? frozen_.output_bytes() : input_.bytes; }
  // Whether a batch keeps the latter.
  bool reduces() const { return reduces_; }

  // Runs the model on one sample, with clean weights. Evaluate also computes the loss.
  TrainerStatus Infer(const void* input);
  TrainerStatus Evaluate(const void* input, const void* target);
  // As Evaluate; RatesOf in exact_rates.h works out the exact layers' learning rates from its
  // report. Nodes [first_node, last_node) are those that the head gives the gradient of; the
  // export writes them into model.h.
  TrainerStatus Measure(const void* input, const void* target, int32_t first_node,
                        int32_t last_node);

  // Of the last pass.
  const Report& report() const { return report_; }
  TensorMemory result() const { return runtime_->Output(kResultOutput); }
  int32_t PredictedClass() const;

  // Perturbation (codes), learning rate and mask of parameter `index`; sigma 0: not trained.
  TrainerStatus SetParameter(int32_t index, int32_t sigma, float rate, Mask mask = {});
  // Perturbation (output codes), block, learning rate and mask of node `node`; see ConfigureNode.
  TrainerStatus SetNode(int32_t node, int32_t sigma, int32_t block, float rate, Mask mask = {});
  // What a step is made of, for steps of up to `largest_batch` samples; see Schedule::Valid.
  TrainerStatus SetSchedule(const ScheduleSettings& settings, int32_t largest_batch);

  // Starts a training step on `batch` samples; see Schedule::BeginStep.
  TrainerStatus BeginStep(uint32_t step, int32_t batch, float rate_scale);
  // Which sample the next pass of the step is on; false: the step is complete.
  bool NextPass(int32_t* sample);
  // Runs the pass that NextPass announced. If it fails, the step is broken off.
  TrainerStatus RunPass(const void* input, const void* target);
  // Replaces a sample by what is kept of it, in its first kept_bytes().
  TrainerStatus Reduce(void* input);
  // As RunPass, with what Reduce left of the sample.
  TrainerStatus RunReduced(const void* kept, const void* target);
  // Ends training: applies the update that the last step left pending, if any, on any sample
  // (nullptr: the last one), and takes back the last perturbation.
  TrainerStatus Finish(const void* input, const void* target);
  // Breaks a step off: its losses are dropped, the weights are clean.
  void Abort();

  // Channels whose ChannelSums Recalibrate takes; 0: the model was patched without a reference.
  int32_t reference_channels() const;
  // Undoes a drift of the sensor by the input adapter, from what the samples in `sums` are now; see
  // recalibrate.h. Applies first what the last step left pending, as Finish does.
  TrainerStatus Recalibrate(const ChannelSums& sums);

  // How often the frozen layers ran.
  uint32_t frozen_runs() const { return frozen_.runs(); }

  int32_t parameter_count() const;
  int32_t node_count() const;
  // Parameter `index`, clean, where it lies in the arena. False if there is none.
  bool ReadParameter(int32_t index, ParameterView* view);
  TrainerStatus WriteParameter(int32_t index, const void* data, int32_t count);

 private:
  bool RunFrozen(const void* input);
  bool SetInput(const void* input);
  TrainerStatus Pass(const Command& command, const void* target);
  TrainerStatus PassOn(const void* input, const Command& command, const void* target);
  TrainerStatus StepPass(const void* target, bool input_is_set);

  ModelRuntime* runtime_;
  FrozenLayers frozen_;
  bool reduces_ = false;
  TensorMemory input_{};
  TensorMemory target_{};
  const ParameterState* state_ = nullptr;
  Report report_{};
  ScheduleSettings settings_{};
  Schedule schedule_{ScheduleSettings{}};
  int32_t largest_batch_ = 0;
  Command next_{};
  int32_t next_sample_ = 0;
  // The sample of this step whose frozen layers' output is still in the inputs of the rest; -1:
  // none.
  int32_t kept_sample_ = -1;
  bool announced_ = false;  // NextPass returned true, and its pass has not been run yet
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_ON_DEVICE_TRAINER_H_
