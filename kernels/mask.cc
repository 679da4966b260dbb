// SPDX-License-Identifier: Apache-2.0
#include "mask.h"

namespace tflm_zo {

template <typename T>
uint32_t ElementMask<T>::KeptBits(int32_t first, int32_t count) {
  uint32_t bits = 0;
  for (int32_t j = 0; j < count; ++j) bits |= static_cast<uint32_t>(Keeps(first + j)) << j;
  return bits;
}

template <typename T>
bool ElementMask<T>::Keeps(int32_t i) {
  if (mask_.kind == kRandomElements) return Chosen(key_, i, level_);
  const int32_t channel = layout_.Of(i);
  if (mask_.kind == kTopElements) return Square(i) >= level_ * layout_.Factor(channel);
  if (channel != channel_) {
    channel_ = channel;
    keeps_channel_ = KeepsChannel();
  }
  return keeps_channel_;
}

template <typename T>
bool ElementMask<T>::KeepsChannel() const {
  if (mask_.kind == kRandomChannels) return Chosen(key_, channel_, level_);
  float sum = 0.0f;
  for (int32_t start = channel_ * layout_.stride; start < count_;
       start += layout_.channels * layout_.stride) {
    for (int32_t i = start; i < start + layout_.stride; ++i) sum += Square(i);
  }
  return sum >= level_ * layout_.Factor(channel_);
}

template <typename T>
float ElementMask<T>::Square(int32_t i) const {
  const auto value = static_cast<float>(initial_[i]);
  return value * value;
}

template class ElementMask<int8_t>;
template class ElementMask<int32_t>;

}  // namespace tflm_zo
