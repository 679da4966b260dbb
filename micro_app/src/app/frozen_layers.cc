// SPDX-License-Identifier: Apache-2.0
#include "frozen_layers.h"

#include <cstring>

#include "move_together.h"

namespace tflm_zo {

bool FrozenLayers::Start() {
  runs_ = 0;
  output_bytes_ = 0;
  for (int i = 0; i < kMostKeptTensors; ++i) {
    const TensorMemory from = frozen_->Output(i);
    if (from.data == nullptr) break;
    const TensorMemory to = rest_->Input(KeptInput(i));
    if (to.data == nullptr || to.bytes != from.bytes) return false;
    output_bytes_ += from.bytes;
  }
  return input().data != nullptr && output_bytes_ != 0;
}

bool FrozenLayers::Run(const void* sample) {
  const TensorMemory to = input();
  std::memcpy(to.data, sample, to.bytes);
  runs_ += 1;
  return frozen_->Invoke();
}

void FrozenLayers::HandOver() {
  BlockMove moves[kMostKeptTensors] = {};
  for (int i = 0; i < kMostKeptTensors; ++i) {
    const TensorMemory from = frozen_->Output(i);
    if (from.data == nullptr) break;
    moves[i] = {static_cast<uint8_t*>(rest_->Input(KeptInput(i)).data),
                static_cast<uint8_t*>(from.data), from.bytes};
  }
  if (moves[1].size == 0) {
    std::memmove(moves[0].to, moves[0].from, moves[0].size);
  } else {
    MoveTogether(moves[0], moves[1]);
  }
}

void FrozenLayers::SaveOutputs(void* copy) const {
  auto* to = static_cast<uint8_t*>(copy);
  for (int i = 0; i < kMostKeptTensors; ++i) {
    const TensorMemory from = frozen_->Output(i);
    if (from.data == nullptr) break;
    std::memcpy(to, from.data, from.bytes);
    to += from.bytes;
  }
}

void FrozenLayers::HandOver(const void* copy) const {
  const auto* from = static_cast<const uint8_t*>(copy);
  for (int i = 0; i < kMostKeptTensors && frozen_->Output(i).data != nullptr; ++i) {
    const TensorMemory to = rest_->Input(KeptInput(i));
    std::memcpy(to.data, from, to.bytes);
    from += to.bytes;
  }
}

}  // namespace tflm_zo
