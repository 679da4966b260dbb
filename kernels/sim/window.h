// SPDX-License-Identifier: Apache-2.0
//
// Geometry of sliding windows, and the padded copy of an image that they slide over.
#ifndef TFLM_ZO_SIM_WINDOW_H_
#define TFLM_ZO_SIM_WINDOW_H_

#include <cstdint>
#include <vector>

#include "sim_api.h"

namespace tflm_zo {
namespace sim {

using Window = TflmZoSimWindow;

// False if a size is not positive, a padding negative, or a size too large to compute with.
bool IsValid(const Window& window);

int64_t InputBytes(const Window& window);
inline int32_t OutputPixels(const Window& w) { return w.output_height * w.output_width; }

// The padded image: what the windows of all outputs cover, no more.
int32_t PaddedHeight(const Window& window);
int32_t PaddedWidth(const Window& window);
int64_t PaddedBytes(const Window& window);

// Writes the padded image of `input` as unsigned bytes, x + 128; padding becomes `fill`.
void CopyPadded(const Window& window, const int8_t* input, uint8_t fill, uint8_t* padded);

// Start of the window of every output pixel of `samples` padded images that lie one after the
// other, in bytes from the first.
std::vector<int32_t> PixelOffsets(const Window& window, int32_t samples);

// Position of each tap of the kernel, row by row, in bytes from the window's start.
std::vector<int32_t> TapOffsets(const Window& window);

// How many samples' padded images should be processed together: as many as a first-level cache
// holds beside the weights, at least one.
int32_t SamplesPerGroup(const Window& window);

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_WINDOW_H_
