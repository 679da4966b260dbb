// SPDX-License-Identifier: Apache-2.0
#include "add_inl.h"
#include "depthwise_inl.h"
#include "gemm_inl.h"
#include "kernels.h"
#include "pool_inl.h"
#include "simd_neon.h"

namespace tflm_zo {
namespace sim {

const KernelTable kNeonKernels = {Gemm<Neon>, Depthwise<Neon>, Add<Neon>, Reduce<Neon, SumOf>,
                                  Reduce<Neon, MaximumOf>};

}  // namespace sim
}  // namespace tflm_zo
