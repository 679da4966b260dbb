// SPDX-License-Identifier: Apache-2.0
//
// Functions that a shared library on the host shows to Python; all others are hidden in it.
#ifndef TFLM_ZO_KERNELS_HOST_EXPORT_H_
#define TFLM_ZO_KERNELS_HOST_EXPORT_H_

#if defined(_WIN32)
#define TFLM_ZO_EXPORT extern "C" __declspec(dllexport)
#else
#define TFLM_ZO_EXPORT extern "C" __attribute__((visibility("default")))
#endif

#endif  // TFLM_ZO_KERNELS_HOST_EXPORT_H_
