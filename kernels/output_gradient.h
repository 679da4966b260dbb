// SPDX-License-Identifier: Apache-2.0
//
// Gradients dL/dy of a layer's output that are computed element by element when an update asks for
// them, so that they need no memory. NodeGradient in node_perturbation.h is a third one.
#ifndef TFLM_ZO_KERNELS_OUTPUT_GRADIENT_H_
#define TFLM_ZO_KERNELS_OUTPUT_GRADIENT_H_

#include <cstdint>

#include "layer_shape.h"
#include "op_options.h"

namespace tflm_zo {

// The int8 output y of a layer, [height][width][channels].
class OutputCodes {
 public:
  OutputCodes(const int8_t* y, const NodeOptions& options) : y_(y), options_(options) {}

  // Where the fused activation is saturated, the gradient is zero.
  bool Saturated(int32_t row, int32_t column, int32_t channel) const {
    const LayerShape& shape = options_.shape;
    const int8_t code = y_[(row * shape.output_width + column) * shape.output_channels + channel];
    return code <= options_.activation_min || code >= options_.activation_max;
  }

 private:
  const int8_t* y_;
  const NodeOptions& options_;
};

// dL/dy from the gradient of the features, each of which is the mean of a window of outputs.
class PooledGradient {
 public:
  PooledGradient(const int8_t* y, const NodeOptions& options, const float* feature_gradient)
      : y_(y, options),
        options_(options),
        feature_gradient_(feature_gradient),
        share_(1.0f / static_cast<float>(options.window_height * options.window_width)),
        one_window_(options.window_height == options.shape.output_height &&
                    options.window_width == options.shape.output_width) {}

  float At(int32_t row, int32_t column, int32_t channel) const {
    if (y_.Saturated(row, column, channel)) return 0.0f;
    // Most models average over the whole output, which needs none of these divisions.
    const int32_t pooled = one_window_ ? 0
                                       : row / options_.window_height * options_.pooled_width +
                                             column / options_.window_width;
    return feature_gradient_[pooled * options_.shape.output_channels + channel] * share_;
  }

 private:
  OutputCodes y_;
  const NodeOptions& options_;
  const float* feature_gradient_;
  float share_;
  bool one_window_;
};

// dL/dy of 1 wherever an output is not saturated.
class UnitGradient {
 public:
  UnitGradient(const int8_t* y, const NodeOptions& options) : y_(y, options) {}

  float At(int32_t row, int32_t column, int32_t channel) const {
    return y_.Saturated(row, column, channel) ? 0.0f : 1.0f;
  }

 private:
  OutputCodes y_;
};

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_OUTPUT_GRADIENT_H_
