// SPDX-License-Identifier: Apache-2.0
//
// The part of TFLite Micro's kernel C ABI that an op needs, declared in our own words.
//
// The official Python wheel carries a complete TFLM but no headers, so the plugin for it is built
// against these declarations. They follow the classic layout (TF_LITE_STATIC_MEMORY), which TFLM
// kept from 2021 until October 2026. Where genuine TFLM headers are on the include path,
// tflm_adapter.h uses those and compares the two.
#ifndef TFLM_ZO_KERNELS_TFLM_ABI_H_
#define TFLM_ZO_KERNELS_TFLM_ABI_H_

#include <cstddef>
#include <cstdint>

namespace tflm_zo {
namespace abi {

enum Status : int { kOk = 0, kError = 1 };

enum Type : int { kFloat32 = 1, kInt32 = 2, kUInt8 = 3, kInt16 = 7, kInt8 = 9 };

struct IntArray {
  int size;
  int data[1];  // `size` elements
};

struct EvalTensor {
  void* data;
  IntArray* dims;
  Type type;
};

struct Node {
  IntArray* inputs;
  IntArray* outputs;
  IntArray* intermediates;
  void* user_data;
  void* builtin_data;
  const void* custom_initial_data;
  int custom_initial_data_size;
};

struct Context {
  size_t tensors_size;
  void* unused_execution_plan;
  void* tensors;
  void* impl;
  void* unused_resize_tensor;
  void (*ReportError)(Context*, const char* format, ...);
  void* unused_add_tensors;
  void* unused_node_and_registration;
  void* unused_replace_subsets;
  int recommended_num_threads;
  void* unused_get_external_context;
  void* unused_set_external_context;
  bool allow_fp32_relax_to_fp16;
  void* profiler;
  void* (*AllocatePersistentBuffer)(Context*, size_t bytes);
  void* unused_allocate_for_eval;
  Status (*RequestScratchBufferInArena)(Context*, size_t bytes, int* index);
  void* (*GetScratchBuffer)(Context*, int index);
  void* unused_resize_explicit;
  void* unused_preview_delegates;
  void* unused_get_tensor;
  EvalTensor* (*GetEvalTensor)(const Context*, int tensor_index);
};

struct Registration {
  void* (*init)(Context*, const char* buffer, size_t length);
  void (*free)(Context*, void* buffer);
  Status (*prepare)(Context*, Node*);
  Status (*invoke)(Context*, Node*);
  void (*reset)(Context*, void* buffer);
  int32_t builtin_code;
  const char* custom_name;
};

// What the wheel hands to a custom op registerer: a resolver with a fixed table of registrations.
struct PythonOpsResolver {
  static constexpr unsigned kCapacity = 200;
  void* vtable;
  Registration registrations[kCapacity];
  unsigned count;
};

// BuiltinOperator_CUSTOM of the TFLite schema.
constexpr int32_t kBuiltinCustom = 32;

#if defined(__x86_64__)
// Offsets read off the pinned wheel; a compiler that lays this out otherwise must not build the
// plugin.
static_assert(offsetof(Context, AllocatePersistentBuffer) == 112, "TfLiteContext layout");
static_assert(offsetof(Context, RequestScratchBufferInArena) == 128, "TfLiteContext layout");
static_assert(offsetof(Context, GetScratchBuffer) == 136, "TfLiteContext layout");
static_assert(offsetof(Context, GetEvalTensor) == 168, "TfLiteContext layout");
#endif

}  // namespace abi
}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_TFLM_ABI_H_
