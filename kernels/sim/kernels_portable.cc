// SPDX-License-Identifier: Apache-2.0
#include "add_inl.h"
#include "depthwise_inl.h"
#include "gemm_inl.h"
#include "kernels.h"
#include "pool_inl.h"
#include "simd_portable.h"

namespace tflm_zo {
namespace sim {

const KernelTable kPortableKernels = {Gemm<Portable>, Depthwise<Portable>, Add<Portable>,
                                      Reduce<Portable, SumOf>, Reduce<Portable, MaximumOf>};

}  // namespace sim
}  // namespace tflm_zo
