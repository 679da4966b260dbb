// SPDX-License-Identifier: Apache-2.0
//
// Loops that hosts run on many elements at once. A function marked TFLM_ZO_VECTORISED is compiled
// for AVX2 as well, and the loader takes the variant that the processor runs. Its loops must do
// without branches; where kVectorised is false, a branch that saves work is welcome.
#ifndef TFLM_ZO_KERNELS_VECTORISED_H_
#define TFLM_ZO_KERNELS_VECTORISED_H_

#include <cstdint>

// The C library's loader must know how to choose, and the compiler how to let it.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define TFLM_ZO_VECTORISED __attribute__((target_clones("avx2", "default")))
#else
#define TFLM_ZO_VECTORISED
#endif

namespace tflm_zo {

#if defined(__x86_64__)
constexpr bool kVectorised = true;
#else
constexpr bool kVectorised = false;
#endif

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_VECTORISED_H_
