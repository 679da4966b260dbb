// SPDX-License-Identifier: Apache-2.0
#include "kernels.h"

namespace tflm_zo {
namespace sim {
namespace {

#if defined(TFLM_ZO_SIM_AVX)
bool HasAvx2() { return __builtin_cpu_supports("avx2"); }

bool HasAvx512Vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
#endif

}  // namespace

const KernelTable* FindKernels(InstructionSet instruction_set) {
  switch (instruction_set) {
    case InstructionSet::kPortable:
      return &kPortableKernels;
    case InstructionSet::kAuto:
#if defined(TFLM_ZO_SIM_AVX)
      if (HasAvx512Vnni()) return &kAvx512VnniKernels;
      if (HasAvx2()) return &kAvx2Kernels;
#endif
#if defined(TFLM_ZO_SIM_NEON)
      return &kNeonKernels;
#else
      return &kPortableKernels;
#endif
#if defined(TFLM_ZO_SIM_AVX)
    case InstructionSet::kAvx2:
      return HasAvx2() ? &kAvx2Kernels : nullptr;
    case InstructionSet::kAvx512Vnni:
      return HasAvx512Vnni() ? &kAvx512VnniKernels : nullptr;
#endif
#if defined(TFLM_ZO_SIM_NEON)
    case InstructionSet::kNeon:
      return &kNeonKernels;
#endif
    default:
      return nullptr;
  }
}

InstructionSet InstructionSetOf(const KernelTable* kernels) {
#if defined(TFLM_ZO_SIM_AVX)
  if (kernels == &kAvx512VnniKernels) return InstructionSet::kAvx512Vnni;
  if (kernels == &kAvx2Kernels) return InstructionSet::kAvx2;
#endif
#if defined(TFLM_ZO_SIM_NEON)
  if (kernels == &kNeonKernels) return InstructionSet::kNeon;
#endif
  (void)kernels;
  return InstructionSet::kPortable;
}

}  // namespace sim
}  // namespace tflm_zo
