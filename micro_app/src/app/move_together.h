// SPDX-License-Identifier: Apache-2.0
//
// Moving two blocks of memory where each may lie on the other's destination: two models that share
// an arena have their tensors where each one's plan puts them.
#ifndef TFLM_ZO_MICRO_APP_MOVE_TOGETHER_H_
#define TFLM_ZO_MICRO_APP_MOVE_TOGETHER_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>

namespace tflm_zo {

struct BlockMove {
  uint8_t* to;
  uint8_t* from;
  uint32_t size;
};

namespace move_together {

inline bool Overlap(const uint8_t* a, uint32_t a_size, const uint8_t* b, uint32_t b_size) {
  const std::less<const uint8_t*> before;  // defined for pointers into different objects, too
  return before(a, b + b_size) && before(b, a + a_size);
}

inline void Move(const BlockMove& block) { std::memmove(block.to, block.from, block.size); }

// False, with nothing moved, if each of them lies where the other is to go.
inline bool MoveInOrder(const BlockMove& a, const BlockMove& b) {
  const bool a_first = !Overlap(a.to, a.size, b.from, b.size);
  if (!a_first && Overlap(b.to, b.size, a.from, a.size)) return false;
  Move(a_first ? a : b);
  Move(a_first ? b : a);
  return true;
}

}  // namespace move_together

// Moves both as if at once. Neither the sources nor the destinations overlap one another; what lies
// between the sources may be overwritten.
inline void MoveTogether(BlockMove a, BlockMove b) {
  if (move_together::MoveInOrder(a, b)) return;
  // Each block lies where the other is to go, so the destinations are in the other order than the
  // sources. Swap the two within the memory of the sources; then at most one of them is in the way.
  if (std::less<const uint8_t*>()(b.from, a.from)) std::swap(a, b);
  std::memmove(a.from + a.size, b.from, b.size);
  std::rotate(a.from, a.from + a.size, a.from + a.size + b.size);
  b.from = a.from;
  a.from += b.size;
  move_together::MoveInOrder(a, b);
}

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_MOVE_TOGETHER_H_
