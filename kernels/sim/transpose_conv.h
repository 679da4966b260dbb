// SPDX-License-Identifier: Apache-2.0
//
// TRANSPOSE_CONV: each input pixel adds the filter times its value to the output around it.
#ifndef TFLM_ZO_SIM_TRANSPOSE_CONV_H_
#define TFLM_ZO_SIM_TRANSPOSE_CONV_H_

#include <cstdint>
#include <vector>

#include "layer.h"
#include "sim_api.h"

namespace tflm_zo {
namespace sim {

class TransposeConvLayer : public Layer {
 public:
  // As tflm_zo_sim_add_transpose_conv.
  TransposeConvLayer(const TflmZoSimWindow& window, int32_t output_channels, const int8_t* weights,
                     const int32_t* bias, const TflmZoSimQuantization& quantization);

  void Run(const LayerIo& io) override;

 private:
  void AddPixel(const int8_t* pixel, int32_t y, int32_t x);

  TflmZoSimWindow window_;
  int32_t output_channels_;
  std::vector<int8_t> weights_;
  std::vector<int32_t> bias_;
  std::vector<int32_t> multiplier_;
  std::vector<int32_t> left_shift_;
  std::vector<int32_t> right_shift_;
  int32_t input_zero_point_;
  int32_t output_zero_point_;
  int32_t activation_min_;
  int32_t activation_max_;
  std::vector<int32_t> sums_;  // of one sample's output
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_TRANSPOSE_CONV_H_
