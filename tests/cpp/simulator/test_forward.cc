// SPDX-License-Identifier: Apache-2.0
//
// The simulator's inner loops against plain loops, on every instruction set that this processor
// runs. That plain loops and TFLM agree is for the Python tests, which have TFLM.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "../check.h"
#include "../xorshift.h"
#include "sim_api.h"

namespace {

constexpr int32_t kInstructionSets = 5;  // as in sim_api.h, the fastest one included
constexpr int kSamples = 3;

struct Geometry {
  TflmZoSimWindow window;
  int32_t output_channels;
};

class Random {
 public:
  // In [low, high].
  int32_t Between(int32_t low, int32_t high) {
    return low + static_cast<int32_t>(xorshift_.Next() % static_cast<uint32_t>(high - low + 1));
  }
  std::vector<int8_t> Codes(int64_t count) {
    std::vector<int8_t> codes(static_cast<size_t>(count));
    for (int8_t& code : codes) code = static_cast<int8_t>(Between(-128, 127));
    return codes;
  }

 private:
  Xorshift xorshift_{20};
};

Geometry MakeGeometry(Random* random, int32_t channels, int32_t output_channels) {
  TflmZoSimWindow w{};
  w.channels = channels;
  w.kernel_height = random->Between(1, 4);
  w.kernel_width = random->Between(1, 4);
  w.stride_height = random->Between(1, 2);
  w.stride_width = random->Between(1, 2);
  w.dilation_height = w.dilation_width = 1;
  w.pad_top = random->Between(0, w.kernel_height - 1);
  w.pad_left = random->Between(0, w.kernel_width - 1);
  w.input_height = random->Between(4, 9);
  w.input_width = random->Between(4, 9);
  w.output_height = (w.input_height + w.pad_top - w.kernel_height) / w.stride_height + 1;
  w.output_width = (w.input_width + w.pad_left - w.kernel_width) / w.stride_width + 1;
  return {w, output_channels};
}

// Rescaling per channel that brings sums of a few hundred products near to the range of int8.
struct Rescaling {
  std::vector<int32_t> multiplier, left_shift, right_shift;
  TflmZoSimQuantization quantization;

  Rescaling(Random* random, int32_t channels) {
    for (int32_t c = 0; c < channels; ++c) {
      multiplier.push_back(random->Between(1 << 30, INT32_MAX));
      const bool left = random->Between(0, 9) == 0;
      left_shift.push_back(left ? random->Between(0, 3) : 0);
      right_shift.push_back(left ? 0 : random->Between(0, 14));
    }
    quantization = {multiplier.data(),          left_shift.data(),
                    right_shift.data(),         random->Between(-128, 127),
                    random->Between(-128, 127), random->Between(-128, -100),
                    random->Between(100, 127)};
  }
};

// TFLM's double rounding, in 64 bits.
int32_t Rescale(int32_t x, int32_t multiplier, int32_t left, int32_t right) {
  const int64_t shifted = static_cast<int32_t>(static_cast<uint32_t>(x) << left);
  const int64_t high = (shifted * multiplier + (INT64_C(1) << 30)) >> 31;
  if (right == 0) return static_cast<int32_t>(high);
  const int64_t magnitude = ((high < 0 ? -high : high) + (INT64_C(1) << (right - 1))) >> right;
  return static_cast<int32_t>(high < 0 ? -magnitude : magnitude);
}

int8_t ToCode(int64_t x, const TflmZoSimQuantization& q) {
  return static_cast<int8_t>(std::clamp<int64_t>(x, q.activation_min, q.activation_max));
}

// The window's pixel (y, x) as an index into the image, or -1 in the padding.
int64_t PixelAt(const TflmZoSimWindow& w, int32_t row, int32_t column, int32_t ky, int32_t kx) {
  const int32_t y = row * w.stride_height + ky - w.pad_top;
  const int32_t x = column * w.stride_width + kx - w.pad_left;
  if (y < 0 || x < 0 || y >= w.input_height || x >= w.input_width) return -1;
  return static_cast<int64_t>(y) * w.input_width + x;
}

// What a layer of one input and one output computes; accumulators only for those that have them.
struct Results {
  std::vector<int8_t> output;
  std::vector<int32_t> accumulators;
};

// Runs the layer that `add` appends on the fastest and every other instruction set.
template <class Add>
void CheckOnAll(const std::vector<std::vector<int8_t>>& inputs, const Results& expected, Add add) {
  std::vector<int64_t> bytes;
  std::vector<int32_t> tensors;
  for (const auto& input : inputs) {
    tensors.push_back(static_cast<int32_t>(bytes.size()));
    bytes.push_back(static_cast<int64_t>(input.size()) / kSamples);
  }
  const auto output = static_cast<int32_t>(bytes.size());
  tensors.push_back(output);
  bytes.push_back(static_cast<int64_t>(expected.output.size()) / kSamples);
  int ran = 0;
  for (int32_t set = 0; set < kInstructionSets; ++set) {
    TflmZoSim* sim = tflm_zo_sim_create(bytes.data(), output + 1, set);
    if (sim == nullptr) continue;
    ++ran;
    CHECK_EQ(add(sim, output), 0);
    CHECK_EQ(tflm_zo_sim_finish(sim), 0);
    Results found{std::vector<int8_t>(expected.output.size()),
                  std::vector<int32_t>(expected.accumulators.size())};
    std::vector<std::vector<int8_t>> given = inputs;
    std::vector<int8_t*> data;
    for (auto& input : given) data.push_back(input.data());
    data.push_back(found.output.data());
    int32_t* accumulators = found.accumulators.empty() ? nullptr : found.accumulators.data();
    CHECK_EQ(tflm_zo_sim_run(sim, 0, 1, kSamples, tensors.data(), data.data(), output + 1, 0,
                             accumulators),
             0);
    CHECK_BYTES_EQ(found.output.data(), expected.output.data(), expected.output.size());
    CHECK_BYTES_EQ(found.accumulators.data(), expected.accumulators.data(),
                   4 * expected.accumulators.size());
    tflm_zo_sim_destroy(sim);
  }
  CHECK(ran >= 2);  // the fastest and the portable one
}

// One layer with weights: `groups` 0 means depthwise.
void CheckLayer(Random* random, const Geometry& g, bool depthwise) {
  const TflmZoSimWindow& w = g.window;
  const int32_t outputs = g.output_channels;
  const int32_t depth = depthwise ? 1 : w.channels;
  const std::vector<int8_t> weights =
      random->Codes(int64_t{1} * outputs * w.kernel_height * w.kernel_width * depth);
  std::vector<int32_t> bias(static_cast<size_t>(outputs));
  for (int32_t& b : bias) b = random->Between(-20000, 20000);
  const Rescaling rescaling(random, outputs);
  const TflmZoSimQuantization& q = rescaling.quantization;
  const int64_t image = int64_t{1} * w.input_height * w.input_width * w.channels;
  const std::vector<int8_t> input = random->Codes(kSamples * image);

  Results expected;
  for (int s = 0; s < kSamples; ++s) {
    for (int32_t p = 0; p < w.output_height * w.output_width; ++p) {
      for (int32_t n = 0; n < outputs; ++n) {
        int32_t sum = bias[static_cast<size_t>(n)];
        for (int32_t k = 0; k < w.kernel_height * w.kernel_width; ++k) {
          const int64_t pixel = PixelAt(w, p / w.output_width, p % w.output_width,
                                        k / w.kernel_width, k % w.kernel_width);
          if (pixel < 0) continue;
          for (int32_t d = 0; d < depth; ++d) {
            const int32_t channel = depthwise ? n : d;
            const size_t at = static_cast<size_t>(s * image + pixel * w.channels + channel);
            const int32_t weight =
                depthwise ? weights[static_cast<size_t>(k * outputs + n)]
                          : weights[static_cast<size_t>(
                                (n * w.kernel_height * w.kernel_width + k) * depth + d)];
            sum += weight * (input[at] - q.input_zero_point);
          }
        }
        const auto c = static_cast<size_t>(n);
        const int32_t scaled = Rescale(sum, q.multiplier[c], q.left_shift[c], q.right_shift[c]);
        expected.accumulators.push_back(sum);
        expected.output.push_back(ToCode(int64_t{scaled} + q.output_zero_point, q));
      }
    }
  }
  CheckOnAll({input}, expected, [&](TflmZoSim* sim, int32_t output) {
    return depthwise
               ? tflm_zo_sim_add_depthwise(sim, 0, output, &w, 1, weights.data(), bias.data(), &q)
               : tflm_zo_sim_add_conv(sim, 0, output, &w, outputs, 1, weights.data(), bias.data(),
                                      &q);
  });
}

}  // namespace

TEST(Convolution) {
  Random random;
  for (int i = 0; i < 60; ++i) {
    CheckLayer(&random, MakeGeometry(&random, random.Between(1, 40), random.Between(1, 40)), false);
  }
}

TEST(Depthwise) {
  Random random;
  for (int i = 0; i < 60; ++i) {
    const int32_t channels = random.Between(1, 40);
    CheckLayer(&random, MakeGeometry(&random, channels, channels), true);
  }
}

TEST(Add) {
  Random random;
  for (int i = 0; i < 40; ++i) {
    const int64_t count = kSamples * random.Between(1, 100);
    const std::vector<int8_t> first = random.Codes(count), second = random.Codes(count);
    const TflmZoSimAddParams p{random.Between(-128, 127),
                               1 << 30,
                               0,
                               random.Between(-128, 127),
                               random.Between(1 << 30, INT32_MAX),
                               random.Between(1, 8),
                               random.Between(1 << 30, INT32_MAX),
                               random.Between(17, 20),
                               random.Between(-128, 127),
                               -128,
                               127};
    Results expected;
    for (int64_t k = 0; k < count; ++k) {
      const auto at = static_cast<size_t>(k);
      const int32_t x = Rescale((first[at] - p.first_zero_point) * (1 << 20), p.first_multiplier, 0,
                                p.first_right_shift);
      const int32_t y = Rescale((second[at] - p.second_zero_point) * (1 << 20), p.second_multiplier,
                                0, p.second_right_shift);
      const int32_t sum = Rescale(x + y, p.output_multiplier, 0, p.output_right_shift);
      expected.output.push_back(
          static_cast<int8_t>(std::clamp(sum + p.output_zero_point, -128, 127)));
    }
    CheckOnAll({first, second}, expected, [&](TflmZoSim* sim, int32_t output) {
      return tflm_zo_sim_add_add(sim, 0, 1, output, &p);
    });
  }
}

TEST(Pooling) {
  Random random;
  for (int i = 0; i < 40; ++i) {
    const int32_t channels = random.Between(1, 40);
    const TflmZoSimWindow w = MakeGeometry(&random, channels, channels).window;
    const int64_t image = int64_t{1} * w.input_height * w.input_width * channels;
    const std::vector<int8_t> input = random.Codes(kSamples * image);
    Results average, maximum;
    for (int s = 0; s < kSamples; ++s) {
      for (int32_t p = 0; p < w.output_height * w.output_width; ++p) {
        for (int32_t c = 0; c < channels; ++c) {
          int32_t sum = 0, count = 0, highest = -128;
          for (int32_t k = 0; k < w.kernel_height * w.kernel_width; ++k) {
            const int64_t pixel = PixelAt(w, p / w.output_width, p % w.output_width,
                                          k / w.kernel_width, k % w.kernel_width);
            if (pixel < 0) continue;
            const int32_t x = input[static_cast<size_t>(s * image + pixel * channels + c)];
            sum += x;
            highest = std::max(highest, x);
            ++count;
          }
          const int32_t half = sum > 0 ? count / 2 : -(count / 2);
          average.output.push_back(static_cast<int8_t>((sum + half) / count));
          maximum.output.push_back(static_cast<int8_t>(highest));
        }
      }
    }
    CheckOnAll({input}, average, [&](TflmZoSim* sim, int32_t output) {
      return tflm_zo_sim_add_average_pool(sim, 0, output, &w, -128, 127);
    });
    CheckOnAll({input}, maximum, [&](TflmZoSim* sim, int32_t output) {
      return tflm_zo_sim_add_max_pool(sim, 0, output, &w, -128, 127);
    });
  }
}

CHECK_MAIN()
