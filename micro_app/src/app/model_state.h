// SPDX-License-Identifier: Apache-2.0
//
// All that training changes in a model, as one thing: saved to flash, loaded, reset, read and
// written.
#ifndef TFLM_ZO_MICRO_APP_MODEL_STATE_H_
#define TFLM_ZO_MICRO_APP_MODEL_STATE_H_

#include <cstdint>

#include "checkpoint.h"
#include "on_device_trainer.h"
#include "training_progress.h"

namespace tflm_zo {

class ModelState {
 public:
  // Weights and moments in one checkpoint at most.
  static constexpr uint32_t kMaxSegments = 160;

  // `trainer` must have started before any other call.
  ModelState(OnDeviceTrainer* trainer, Flash* flash, uint64_t model_hash)
      : trainer_(trainer), store_(flash), model_hash_(model_hash) {}

  // Saves the clean weights. A pending update is not in them: finish the step before.
  CheckpointStatus Save(const TrainingProgress& progress);

  // Loads the newest checkpoint, if it is of this model. kFlashFailure: the flash broke off, and
  // the weights are those of the factory; any other failure changes nothing.
  CheckpointStatus Load(TrainingProgress* progress);

  // Brings back the weights that the model was exported with. What is in flash stays.
  void Reset();

  // Removes the checkpoints.
  CheckpointStatus Clear() { return store_.Clear(); }

  CheckpointStatus Newest(CheckpointInfo* info) const { return store_.Newest(info); }

  // Where `size` bytes of parameter `index` from byte `offset` on are; nullptr if it has none
  // there.
  const void* Read(int32_t index, uint32_t offset, uint32_t size);

  // Overwrites bytes of a parameter. False, with nothing written, if it has none there, an int32
  // would be cut, or a value leaves the range in which weights can be perturbed and restored.
  bool Write(int32_t index, uint32_t offset, const void* data, uint32_t size);

 private:
  // Fills `segments` and returns their number, 0 if there are too many.
  template <typename AnySegment>
  uint32_t CollectSegments(TrainingProgress* progress, AnySegment* segments) const;

  OnDeviceTrainer* trainer_;
  CheckpointStore store_;
  uint64_t model_hash_;
};

inline uint32_t ByteCount(const ParameterView& view) {
  return static_cast<uint32_t>(view.count * ElementBytes(view.entry->kind));
}

// Floats of a parameter's momentum state.
uint32_t MomentCount(const ParameterView& view);

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_MODEL_STATE_H_
