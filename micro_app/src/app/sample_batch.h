// SPDX-License-Identifier: Apache-2.0
//
// The labelled samples of one training step. A step goes through its batch several times, so the
// samples, or what the passes need of them, stay in RAM until it is complete.
#ifndef TFLM_ZO_MICRO_APP_SAMPLE_BATCH_H_
#define TFLM_ZO_MICRO_APP_SAMPLE_BATCH_H_

#include <cstdint>
#include <cstring>

namespace tflm_zo {

class SampleBatch {
 public:
  // Keeps its samples in the `size` bytes at `memory`, one after the other, each followed by its
  // target. `kept_bytes`: what is kept of an input, its first bytes, once it is complete; see
  // OnDeviceTrainer::Reduce.
  SampleBatch(uint8_t* memory, uint32_t size, uint32_t input_bytes, uint32_t target_bytes,
              uint32_t kept_bytes)
      : memory_(memory),
        input_bytes_(input_bytes),
        target_bytes_(target_bytes),
        kept_bytes_(kept_bytes),
        // The last sample comes in whole before it is reduced.
        capacity_(size < input_bytes + target_bytes
                      ? 0
                      : 1 + static_cast<int32_t>((size - input_bytes - target_bytes) /
                                                 (kept_bytes + target_bytes))) {}

  int32_t capacity() const { return capacity_; }
  int32_t size() const { return size_; }
  void Clear() { size_ = 0; }

  // Where the next sample and, behind it, its target go, for a caller who receives them piece by
  // piece; nullptr if the batch is full. Counts once Commit() is called.
  uint8_t* next_input() { return size_ < capacity_ ? memory_ + Offset(size_) : nullptr; }
  uint8_t* next_target() {
    return size_ < capacity_ ? memory_ + Offset(size_) + input_bytes_ : nullptr;
  }
  void Commit() {
    if (size_ == capacity_) return;
    std::memmove(next_input() + kept_bytes_, next_target(), target_bytes_);
    size_ += 1;
  }

  const uint8_t* kept(int32_t index) const { return memory_ + Offset(index); }
  const uint8_t* target(int32_t index) const { return memory_ + Offset(index) + kept_bytes_; }

 private:
  uint32_t Offset(int32_t index) const {
    return static_cast<uint32_t>(index) * (kept_bytes_ + target_bytes_);
  }

  uint8_t* memory_;
  uint32_t input_bytes_;
  uint32_t target_bytes_;
  uint32_t kept_bytes_;
  int32_t capacity_;
  int32_t size_ = 0;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_SAMPLE_BATCH_H_
