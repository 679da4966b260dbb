// SPDX-License-Identifier: Apache-2.0
//
// Asks a training op whether it accepts its options and tensors, without an engine: readers of
// patched models on a host refuse what the ops would refuse, by the same code.
#ifndef TFLM_ZO_KERNELS_HOST_CHECK_H_
#define TFLM_ZO_KERNELS_HOST_CHECK_H_

#include <cstdint>

#include "host_export.h"

namespace tflm_zo {

enum class TrainingOpKind : int32_t { kParameters = 0, kNode = 1, kLoss = 2 };

// Types of elements, as TFLM numbers them; others are of no use to the ops.
enum class CheckedType : int32_t {
  kOther = 0,
  kFloat32 = 1,
  kInt32 = 2,
  kUInt8 = 3,
  kInt16 = 7,
  kInt8 = 9
};

struct CheckedTensor {
  int32_t type;  // a CheckedType
  int32_t elements;
};

// An op of a patched model. Tensor indices are those of the model, -1 for inputs that are left out.
struct CheckedOp {
  int32_t kind;  // a TrainingOpKind
  const CheckedTensor* tensors;
  int32_t tensor_count;
  const int32_t* inputs;
  int32_t input_count;
  const int32_t* outputs;
  int32_t output_count;
  const void* options;
  int32_t option_bytes;
};

}  // namespace tflm_zo

// Returns 1 if the op accepts them, else 0, and writes why to `message`, which has room for
// `message_bytes`.
TFLM_ZO_EXPORT int tflm_zo_check_op(const tflm_zo::CheckedOp* op, char* message, int message_bytes);

#endif  // TFLM_ZO_KERNELS_HOST_CHECK_H_
