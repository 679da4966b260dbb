// SPDX-License-Identifier: Apache-2.0
#include "add_inl.h"
#include "depthwise_inl.h"
#include "gemm_inl.h"
#include "kernels.h"
#include "pool_inl.h"
#include "simd_avx512vnni.h"

namespace tflm_zo {
namespace sim {

const KernelTable kAvx512VnniKernels = {Gemm<Avx512Vnni>, Depthwise<Avx512Vnni>, Add<Avx512Vnni>,
                                        Reduce<Avx512Vnni, SumOf>, Reduce<Avx512Vnni, MaximumOf>};

}  // namespace sim
}  // namespace tflm_zo
