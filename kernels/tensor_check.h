// SPDX-License-Identifier: Apache-2.0
//
// What the ops check in Prepare, so that no pass needs to: a model from a stranger may hold options
// that lead out of its tensors.
#ifndef TFLM_ZO_KERNELS_TENSOR_CHECK_H_
#define TFLM_ZO_KERNELS_TENSOR_CHECK_H_

#include <cstddef>
#include <cstdint>

#include "session.h"
#include "tflm_adapter.h"

namespace tflm_zo {

// a * b, or -1 if a factor is below 1 or the product above what an int32 holds. As -1 is no factor,
// products of products need one check at the end.
int32_t Product(int32_t a, int32_t b);

// Whether a tensor exists, and has elements of the type and just `count` of them.
bool IsInt8Of(const EvalTensor* tensor, int32_t count);
bool IsInt32Of(const EvalTensor* tensor, int32_t count);
bool IsFloatOf(const EvalTensor* tensor, int32_t count);

// Words for settings in a session tensor behind the session itself; negative if it is none.
int32_t SettingWords(const EvalTensor* tensor);

// Whether no input is given twice. An op that writes one of its tensors would else change another.
bool InputsDiffer(const Node* node);

inline bool Within(int32_t value, int32_t low, int32_t high) {
  return value >= low && value <= high;
}

// Whether differences of codes from it, and their squares, are far from the ends of an int32.
// (There are models whose zero points are no codes of an int8.)
inline bool IsZeroPoint(int32_t value) { return Within(value, INT16_MIN, INT16_MAX); }

// Whether options can be read in place: the model may hold them at any address.
template <typename Options>
bool CanHold(const char* buffer, size_t length) {
  return buffer != nullptr && length >= sizeof(Options) &&
         reinterpret_cast<uintptr_t>(buffer) % alignof(Options) == 0;
}

// Whether no value is negative or not a number.
bool NoneNegative(const float* values, int32_t count);

// Whether a session is one that a parameter op has begun, and all in it that is taken for an index
// leads to something: that the settings of `nodes` nodes lie within the tensor's SettingWords, too.
// Prepare sees the tensor's type and size alone; what is in it is known in a pass, where this takes
// a dozen comparisons.
bool IsSound(const Session& session, int32_t setting_words, int32_t nodes);

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_TENSOR_CHECK_H_
