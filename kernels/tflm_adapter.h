// SPDX-License-Identifier: Apache-2.0
//
// The only file that touches TFLite Micro. Ops use the names below and nothing of TFLM directly, so
// that supporting another TFLM (or another packaging of it) means editing this file alone.
//
// With TFLM headers on the include path the genuine types are used. Without them (the plugin for
// the Python wheel, the kernel tests) the declarations of tflm_abi.h stand in.
#ifndef TFLM_ZO_KERNELS_TFLM_ADAPTER_H_
#define TFLM_ZO_KERNELS_TFLM_ADAPTER_H_

#include <cstddef>
#include <cstdint>

#include "tflm_abi.h"

#if !defined(TFLM_ZO_USE_OWN_ABI) && defined(__has_include)
#if __has_include("tensorflow/lite/c/common.h")
#define TFLM_ZO_HAS_TFLM_HEADERS 1
#endif
#endif

#if defined(TFLM_ZO_HAS_TFLM_HEADERS)
#include "tensorflow/lite/c/common.h"
#include "tensorflow/lite/micro/kernels/kernel_util.h"
#include "tensorflow/lite/micro/micro_log.h"
#if __has_include("tensorflow/lite/micro/micro_common.h")
#include "tensorflow/lite/micro/micro_common.h"
#define TFLM_ZO_HAS_TFLM_REGISTRATION 1
#endif
#endif

namespace tflm_zo {

#if defined(TFLM_ZO_HAS_TFLM_HEADERS)

using Context = TfLiteContext;
using Node = TfLiteNode;
using EvalTensor = TfLiteEvalTensor;
using Status = TfLiteStatus;
constexpr Status kOk = kTfLiteOk;
constexpr Status kError = kTfLiteError;

#if defined(TFLM_ZO_HAS_TFLM_REGISTRATION)
using Registration = TFLMRegistration;
#else
// Arduino packagings of 2023/24: the registration has no reset and carries more fields than we set.
using Registration = TfLiteRegistration;
#endif

// Arduino libraries are built without TF_LITE_STATIC_MEMORY, and nodes and contexts then have more
// fields. Ops and library must be built alike; in the classic layout the stand-in must match.
#if defined(TF_LITE_STATIC_MEMORY)
static_assert(sizeof(TfLiteEvalTensor) == sizeof(abi::EvalTensor), "eval tensor layout");
static_assert(offsetof(TfLiteEvalTensor, dims) == offsetof(abi::EvalTensor, dims),
              "eval tensor layout");
static_assert(offsetof(TfLiteNode, user_data) == offsetof(abi::Node, user_data), "node layout");
static_assert(offsetof(TfLiteContext, GetEvalTensor) == offsetof(abi::Context, GetEvalTensor),
              "context layout");
#endif

inline void* TensorData(const EvalTensor* tensor) { return tensor->data.data; }
inline bool IsInt8(const EvalTensor* tensor) { return tensor->type == kTfLiteInt8; }
inline bool IsInt32(const EvalTensor* tensor) { return tensor->type == kTfLiteInt32; }
inline bool IsFloat32(const EvalTensor* tensor) { return tensor->type == kTfLiteFloat32; }
inline bool IsInt16(const EvalTensor* tensor) { return tensor->type == kTfLiteInt16; }
inline bool IsUInt8(const EvalTensor* tensor) { return tensor->type == kTfLiteUInt8; }

#define TFLM_ZO_REPORT(context, ...) \
  do {                               \
    (void)(context);                 \
    MicroPrintf(__VA_ARGS__);        \
  } while (false)

#else  // our own declarations of the ABI

using Context = abi::Context;
using Node = abi::Node;
using EvalTensor = abi::EvalTensor;
using Status = abi::Status;
using Registration = abi::Registration;
constexpr Status kOk = abi::kOk;
constexpr Status kError = abi::kError;

inline void* TensorData(const EvalTensor* tensor) { return tensor->data; }
inline bool IsInt8(const EvalTensor* tensor) { return tensor->type == abi::kInt8; }
inline bool IsInt32(const EvalTensor* tensor) { return tensor->type == abi::kInt32; }
inline bool IsFloat32(const EvalTensor* tensor) { return tensor->type == abi::kFloat32; }
inline bool IsInt16(const EvalTensor* tensor) { return tensor->type == abi::kInt16; }
inline bool IsUInt8(const EvalTensor* tensor) { return tensor->type == abi::kUInt8; }

#define TFLM_ZO_REPORT(context, ...) (context)->ReportError((context), __VA_ARGS__)

#endif

// Tensor `index` of a node's inputs, or nullptr where the model leaves that input out.
inline EvalTensor* InputTensor(Context* context, const Node* node, int index) {
  if (index < 0 || index >= node->inputs->size || node->inputs->data[index] < 0) return nullptr;
  return context->GetEvalTensor(context, node->inputs->data[index]);
}

inline EvalTensor* OutputTensor(Context* context, const Node* node, int index) {
  if (index < 0 || index >= node->outputs->size || node->outputs->data[index] < 0) return nullptr;
  return context->GetEvalTensor(context, node->outputs->data[index]);
}

// Number of elements of a tensor; -1 for dimensions that no tensor in memory has.
inline int32_t ElementCount(const EvalTensor* tensor) {
  int64_t count = 1;
  for (int d = 0; d < tensor->dims->size; ++d) {
    const int32_t size = tensor->dims->data[d];
    count *= size;
    if (size < 0 || count > INT32_MAX) return -1;
  }
  return static_cast<int32_t>(count);
}

// Bytes of an element; 0 for types that no operator of TFLM keeps a state in.
inline int32_t ElementSize(const EvalTensor* tensor) {
  if (IsInt8(tensor) || IsUInt8(tensor)) return 1;
  if (IsInt16(tensor)) return 2;
  return IsInt32(tensor) || IsFloat32(tensor) ? 4 : 0;
}

inline void* AllocatePersistent(Context* context, size_t bytes) {
  return context->AllocatePersistentBuffer(context, bytes);
}

// Scratch memory that lives during one node's invoke; asked for in prepare.
inline Status RequestScratch(Context* context, size_t bytes, int* index) {
  return context->RequestScratchBufferInArena(context, bytes, index);
}

inline void* ScratchBuffer(Context* context, int index) {
  return context->GetScratchBuffer(context, index);
}

using InitFunction = void* (*)(Context*, const char*, size_t);
using StepFunction = Status (*)(Context*, Node*);

inline Registration MakeRegistration(InitFunction init, StepFunction prepare, StepFunction invoke) {
  Registration registration{};
  registration.init = init;
  registration.prepare = prepare;
  registration.invoke = invoke;
  return registration;
}

// Makes an op known to a MicroMutableOpResolver, which copies the registration. False: it is full.
template <typename Resolver>
bool AddOp(Resolver* resolver, const char* name, Registration registration) {
  return resolver->AddCustom(name, &registration) == kOk;
}

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_TFLM_ADAPTER_H_
