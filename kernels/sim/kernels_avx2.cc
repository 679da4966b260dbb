// SPDX-License-Identifier: Apache-2.0
#include "add_inl.h"
#include "depthwise_inl.h"
#include "gemm_inl.h"
#include "kernels.h"
#include "pool_inl.h"
#include "simd_avx2.h"

namespace tflm_zo {
namespace sim {

const KernelTable kAvx2Kernels = {Gemm<Avx2>, Depthwise<Avx2>, Add<Avx2>, Reduce<Avx2, SumOf>,
                                  Reduce<Avx2, MaximumOf>};

}  // namespace sim
}  // namespace tflm_zo
