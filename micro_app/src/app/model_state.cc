// SPDX-License-Identifier: Apache-2.0
#include "model_state.h"

#include <cstring>

#include "momentum.h"
#include "perturbation.h"

namespace tflm_zo {
namespace {

// Whether new values leave every element that can be perturbed within its range. `from`: `count`
// elements at any address.
template <typename T>
bool KeepsHeadroom(const ParameterView& view, uint32_t first, const uint8_t* from, uint32_t count,
                   int32_t limit) {
  const T* initial = static_cast<const T*>(view.initial) + first;
  for (uint32_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, from + i * sizeof(T), sizeof(T));
    if (HasHeadroom(initial[i], limit, view.entry->headroom) &&
        !HasHeadroom(value, limit, view.entry->headroom)) {
      return false;
    }
  }
  return true;
}

}  // namespace

uint32_t MomentCount(const ParameterView& view) {
  return view.moments == nullptr ? 0 : static_cast<uint32_t>(Momentum::Words(view.count));
}

template <typename AnySegment>
uint32_t ModelState::CollectSegments(TrainingProgress* progress, AnySegment* segments) const {
  uint32_t count = 0;
  segments[count++] = {progress, sizeof(*progress)};
  ParameterView view;
  for (int32_t p = 0; trainer_->ReadParameter(p, &view); ++p) {
    if (count + 2 > kMaxSegments) return 0;
    segments[count++] = {view.data, ByteCount(view)};
    if (view.moments == nullptr) continue;
    segments[count++] = {view.moments, MomentCount(view) * static_cast<uint32_t>(sizeof(float))};
  }
  return count;
}

CheckpointStatus ModelState::Save(const TrainingProgress& progress) {
  TrainingProgress saved = progress;
  ConstSegment segments[kMaxSegments];
  const uint32_t count = CollectSegments(&saved, segments);
  if (count == 0) return CheckpointStatus::kTooLarge;
  return store_.Save(model_hash_, segments, count);
}

CheckpointStatus ModelState::Load(TrainingProgress* progress) {
  TrainingProgress loaded{};
  Segment segments[kMaxSegments];
  const uint32_t count = CollectSegments(&loaded, segments);
  if (count == 0) return CheckpointStatus::kTooLarge;
  trainer_->Abort();
  const CheckpointStatus status = store_.Load(model_hash_, segments, count);
  if (status == CheckpointStatus::kOk) *progress = loaded;
  // Some of the weights may have been overwritten before the flash failed.
  if (status == CheckpointStatus::kFlashFailure) Reset();
  return status;
}

void ModelState::Reset() {
  trainer_->Abort();
  ParameterView view;
  for (int32_t p = 0; trainer_->ReadParameter(p, &view); ++p) {
    if (view.initial == nullptr) {
      std::memset(view.data, 0, ByteCount(view));
    } else {
      std::memcpy(view.data, view.initial, ByteCount(view));
    }
    if (view.moments != nullptr) std::memset(view.moments, 0, MomentCount(view) * sizeof(float));
  }
}

const void* ModelState::Read(int32_t index, uint32_t offset, uint32_t size) {
  ParameterView view;
  if (!trainer_->ReadParameter(index, &view)) return nullptr;
  if (offset > ByteCount(view) || size > ByteCount(view) - offset) return nullptr;
  return static_cast<const uint8_t*>(view.data) + offset;
}

bool ModelState::Write(int32_t index, uint32_t offset, const void* data, uint32_t size) {
  ParameterView view;
  if (!trainer_->ReadParameter(index, &view)) return false;
  const auto width = static_cast<uint32_t>(ElementBytes(view.entry->kind));
  if (offset > ByteCount(view) || size > ByteCount(view) - offset) return false;
  if (offset % width != 0 || size % width != 0) return false;
  const auto* from = static_cast<const uint8_t*>(data);
  const uint32_t first = offset / width;
  if (view.entry->kind == kWeights &&
      !KeepsHeadroom<int8_t>(view, first, from, size / width, kMaxWeight)) {
    return false;
  }
  if (view.entry->kind == kBias &&
      !KeepsHeadroom<int32_t>(view, first, from, size / width, kMaxBias)) {
    return false;
  }
  // An update that is still pending was measured on the old values.
  trainer_->Abort();
  std::memcpy(static_cast<uint8_t*>(view.data) + offset, data, size);
  return true;
}

}  // namespace tflm_zo
