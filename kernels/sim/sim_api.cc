// SPDX-License-Identifier: Apache-2.0
#include "sim_api.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "add.h"
#include "append.h"
#include "conv.h"
#include "depthwise.h"
#include "elementwise.h"
#include "extremum.h"
#include "gather.h"
#include "graph.h"
#include "lookup.h"
#include "mean.h"
#include "pool.h"
#include "reshape.h"
#include "softmax.h"

using tflm_zo::sim::Append;
using tflm_zo::sim::Fail;
using tflm_zo::sim::Graph;
using tflm_zo::sim::InputBytes;
using tflm_zo::sim::IsValid;
using tflm_zo::sim::Layer;
using tflm_zo::sim::MakeOperand;
using tflm_zo::sim::Places;
using tflm_zo::sim::Window;

namespace {

int64_t OutputBytes(const Window& window, int32_t channels) {
  return static_cast<int64_t>(window.output_height) * window.output_width * channels;
}

// Checks a window against the tensors that it connects.
std::string CheckWindow(const TflmZoSim* sim, const Window& window, int32_t input, int32_t output,
                        int32_t output_channels) {
  if (!IsValid(window)) return "the window has a size out of range";
  const Graph& graph = sim->graph;
  if (!graph.IsTensor(input) || graph.TensorBytes(input) != InputBytes(window)) {
    return "the window does not fit its input tensor";
  }
  if (!graph.IsTensor(output) ||
      graph.TensorBytes(output) != OutputBytes(window, output_channels)) {
    return "the window does not fit its output tensor";
  }
  return "";
}

// `make_table` gives what the operator makes of every pair of codes.
template <class MakeTable>
int32_t AddElementwise(TflmZoSim* sim, const TflmZoSimOperand& first,
                       const TflmZoSimOperand& second, int32_t output,
                       const MakeTable& make_table) {
  const Graph& graph = sim->graph;
  if (!graph.IsTensor(output)) return Fail(sim, "an elementwise operator has no output");
  for (const TflmZoSimOperand* operand : {&first, &second}) {
    if (operand->tensor < 0 && operand->constant != nullptr) continue;
    if (!graph.IsTensor(operand->tensor)) return Fail(sim, "an operand has no data");
    if (operand->places == nullptr &&
        graph.TensorBytes(operand->tensor) != graph.TensorBytes(output)) {
      return Fail(sim, "an operand has not the size of the output");
    }
  }
  std::vector<int32_t> inputs;
  for (const TflmZoSimOperand* operand : {&first, &second}) {
    if (operand->tensor >= 0) inputs.push_back(operand->tensor);
  }
  return Append(sim, inputs, output, [&]() -> std::unique_ptr<Layer> {
    const int64_t elements = graph.TensorBytes(output);
    return std::make_unique<tflm_zo::sim::ElementwiseLayer>(
        elements, make_table(), MakeOperand(graph, first, 0, elements),
        MakeOperand(graph, second, first.tensor < 0 ? 0 : 1, elements));
  });
}

int32_t AddLookup(TflmZoSim* sim, int32_t input, int32_t output,
                  const tflm_zo::sim::CodeTable& table) {
  const Graph& graph = sim->graph;
  if (!graph.IsTensor(input) || !graph.IsTensor(output) ||
      graph.TensorBytes(input) != graph.TensorBytes(output)) {
    return Fail(sim, "the tensors of an elementwise operator differ in size");
  }
  return Append(sim, {input}, output, [&]() -> std::unique_ptr<Layer> {
    return std::make_unique<tflm_zo::sim::LookupLayer>(graph.TensorBytes(input), table);
  });
}

int32_t AddPool(TflmZoSim* sim, tflm_zo::sim::Pooling pooling, int32_t input, int32_t output,
                const Window& window, int32_t activation_min, int32_t activation_max) {
  std::string problem = CheckWindow(sim, window, input, output, window.channels);
  if (problem.empty() && (window.dilation_height != 1 || window.dilation_width != 1)) {
    problem = "pooling has no dilation";
  }
  if (problem.empty() &&
      (window.pad_top >= window.kernel_height || window.pad_left >= window.kernel_width ||
       (window.output_height - 1) * window.stride_height - window.pad_top >= window.input_height ||
       (window.output_width - 1) * window.stride_width - window.pad_left >= window.input_width)) {
    problem = "a pooling window lies outside the image";
  }
  if (!problem.empty()) return Fail(sim, problem);
  return Append(sim, {input}, output, [&]() -> std::unique_ptr<Layer> {
    return std::make_unique<tflm_zo::sim::PoolLayer>(sim->graph.kernels(), pooling, window,
                                                     activation_min, activation_max);
  });
}

}  // namespace

TflmZoSim* tflm_zo_sim_create(const int64_t* tensor_bytes, int32_t tensor_count,
                              int32_t instruction_set) {
  try {
    const tflm_zo::sim::KernelTable* kernels =
        tflm_zo::sim::FindKernels(static_cast<tflm_zo::sim::InstructionSet>(instruction_set));
    if (kernels == nullptr) return nullptr;
    return new TflmZoSim{
        Graph(std::vector<int64_t>(tensor_bytes, tensor_bytes + tensor_count), kernels), ""};
  } catch (const std::exception&) {
    return nullptr;
  }
}

void tflm_zo_sim_destroy(TflmZoSim* sim) { delete sim; }

const char* tflm_zo_sim_error(const TflmZoSim* sim) { return sim->error.c_str(); }

int32_t tflm_zo_sim_instruction_set(const TflmZoSim* sim) {
  return static_cast<int32_t>(tflm_zo::sim::InstructionSetOf(sim->graph.kernels()));
}

int32_t tflm_zo_sim_add_conv(TflmZoSim* sim, int32_t input, int32_t output,
                             const TflmZoSimWindow* window, int32_t output_channels, int32_t groups,
                             const int8_t* weights, const int32_t* bias,
                             const TflmZoSimQuantization* quantization) {
  std::string problem = CheckWindow(sim, *window, input, output, output_channels);
  if (problem.empty() && (groups < 1 || output_channels < 1 || window->channels % groups != 0 ||
                          output_channels % groups != 0)) {
    problem = "the number of groups does not divide the channels";
  }
  if (!problem.empty()) return Fail(sim, problem);
  return Append(sim, {input}, output, [&]() -> std::unique_ptr<Layer> {
    return std::make_unique<tflm_zo::sim::ConvLayer>(sim->graph.kernels(), *window, output_channels,
                                                     groups, weights, bias, *quantization);
  });
}

int32_t tflm_zo_sim_add_depthwise(TflmZoSim* sim, int32_t input, int32_t output,
                                  const TflmZoSimWindow* window, int32_t multiplier,
                                  const int8_t* weights, const int32_t* bias,
                                  const TflmZoSimQuantization* quantization) {
  if (multiplier < 1 || multiplier > 1024) return Fail(sim, "the depth multiplier is out of range");
  const std::string problem =
      CheckWindow(sim, *window, input, output, window->channels * multiplier);
  if (!problem.empty()) return Fail(sim, problem);
  return Append(sim, {input}, output, [&]() -> std::unique_ptr<Layer> {
    return std::make_unique<tflm_zo::sim::DepthwiseLayer>(sim->graph.kernels(), *window, multiplier,
                                                          weights, bias, *quantization);
  });
}

int32_t tflm_zo_sim_add_average_pool(TflmZoSim* sim, int32_t input, int32_t output,
                                     const TflmZoSimWindow* window, int32_t activation_min,
                                     int32_t activation_max) {
  return AddPool(sim, tflm_zo::sim::Pooling::kAverage, input, output, *window, activation_min,
                 activation_max);
}

int32_t tflm_zo_sim_add_max_pool(TflmZoSim* sim, int32_t input, int32_t output,
                                 const TflmZoSimWindow* window, int32_t activation_min,
                                 int32_t activation_max) {
  return AddPool(sim, tflm_zo::sim::Pooling::kMaximum, input, output, *window, activation_min,
                 activation_max);
}

int32_t tflm_zo_sim_add_mean(TflmZoSim* sim, int32_t input, int32_t output,
                             const TflmZoSimMeanParams* params) {
  const Graph& graph = sim->graph;
  if (params->outer < 1 || params->count < 1 || params->inner < 1) {
    return Fail(sim, "a mean has a size out of range");
  }
  const int64_t output_bytes = static_cast<int64_t>(params->outer) * params->inner;
  if (!graph.IsTensor(input) || !graph.IsTensor(output) ||
      graph.TensorBytes(input) != output_bytes * params->count ||
      graph.TensorBytes(output) != output_bytes) {
    return Fail(sim, "the tensors of a mean do not fit its sizes");
  }
  return Append(sim, {input}, output, [&]() -> std::unique_ptr<Layer> {
    return std::make_unique<tflm_zo::sim::MeanLayer>(graph.kernels(), *params);
  });
}

int32_t tflm_zo_sim_add_add(TflmZoSim* sim, int32_t first, int32_t second, int32_t output,
                            const TflmZoSimAddParams* params) {
  const Graph& graph = sim->graph;
  for (int32_t tensor : {first, second}) {
    if (!graph.IsTensor(tensor) || !graph.IsTensor(output) ||
        graph.TensorBytes(tensor) != graph.TensorBytes(output)) {
      return Fail(sim, "the tensors of an addition differ in size");
    }
  }
  if (!tflm_zo::sim::HasExactHalf(*params)) {
    return Fail(sim, "neither input of an addition has half the common scale");
  }
  return Append(sim, {first, second}, output, [&]() -> std::unique_ptr<Layer> {
    return std::make_unique<tflm_zo::sim::AddLayer>(graph.kernels(), graph.TensorBytes(output),
                                                    *params);
  });
}

int32_t tflm_zo_sim_add_sum(TflmZoSim* sim, const TflmZoSimOperand* first,
                            const TflmZoSimOperand* second, int32_t output,
                            const TflmZoSimAddParams* params, int32_t subtract) {
  return AddElementwise(sim, *first, *second, output,
                        [&]() { return tflm_zo::sim::SumTable(*params, subtract != 0); });
}

int32_t tflm_zo_sim_add_product(TflmZoSim* sim, const TflmZoSimOperand* first,
                                const TflmZoSimOperand* second, int32_t output,
                                const TflmZoSimProductParams* params) {
  return AddElementwise(sim, *first, *second, output,
                        [&]() { return tflm_zo::sim::ProductTable(*params); });
}

int32_t tflm_zo_sim_add_requantize(TflmZoSim* sim, int32_t input, int32_t output,
                                   const TflmZoSimRequantizeParams* params) {
  return AddLookup(sim, input, output, tflm_zo::sim::RequantizeTable(*params));
}

int32_t tflm_zo_sim_add_logistic(TflmZoSim* sim, int32_t input, int32_t output,
                                 const TflmZoSimLogisticParams* params) {
  return AddLookup(sim, input, output, tflm_zo::sim::LogisticTable(*params));
}

int32_t tflm_zo_sim_add_tanh(TflmZoSim* sim, int32_t input, int32_t output,
                             const TflmZoSimLogisticParams* params) {
  return AddLookup(sim, input, output, tflm_zo::sim::TanhTable(*params));
}

int32_t tflm_zo_sim_add_lookup(TflmZoSim* sim, int32_t input, int32_t output, const int8_t* table) {
  tflm_zo::sim::CodeTable copy;
  std::copy_n(table, copy.size(), copy.begin());
  return AddLookup(sim, input, output, copy);
}

int32_t tflm_zo_sim_add_pairs(TflmZoSim* sim, const TflmZoSimOperand* first,
                              const TflmZoSimOperand* second, int32_t output, const int8_t* table) {
  return AddElementwise(sim, *first, *second, output,
                        [&]() { return tflm_zo::sim::PairTable(table, table + 256 * 256); });
}

int32_t tflm_zo_sim_add_gather(TflmZoSim* sim, const int32_t* inputs, int32_t input_count,
                               int32_t output, const int32_t* places, const int8_t* fill) {
  return Append(sim, {inputs, inputs + input_count}, output, [&]() -> std::unique_ptr<Layer> {
    const Graph& graph = sim->graph;
    std::vector<int64_t> sizes;
    int64_t total = 0;
    for (int32_t i = 0; i < input_count; ++i) {
      sizes.push_back(graph.TensorBytes(inputs[i]));
      total += sizes.back();
    }
    const int64_t elements = graph.TensorBytes(output);
    return std::make_unique<tflm_zo::sim::GatherLayer>(
        sizes, Places(places, elements, -1, total),
        fill == nullptr ? std::vector<int8_t>(static_cast<size_t>(elements))
                        : std::vector<int8_t>(fill, fill + elements));
  });
}

int32_t tflm_zo_sim_add_extremum(TflmZoSim* sim, int32_t input, int32_t output,
                                 const int32_t* places, int32_t count, int32_t maximum) {
  if (count < 1) return Fail(sim, "an extremum is taken of nothing");
  return Append(sim, {input}, output, [&]() -> std::unique_ptr<Layer> {
    const Graph& graph = sim->graph;
    return std::make_unique<tflm_zo::sim::ExtremumLayer>(
        graph.TensorBytes(input),
        Places(places, graph.TensorBytes(output) * count, 0, graph.TensorBytes(input)), count,
        maximum != 0);
  });
}

int32_t tflm_zo_sim_add_softmax(TflmZoSim* sim, int32_t input, int32_t output, int32_t depth,
                                int32_t multiplier, int32_t left_shift, int32_t diff_min) {
  const Graph& graph = sim->graph;
  if (!graph.IsTensor(input) || !graph.IsTensor(output) || depth < 1 ||
      graph.TensorBytes(input) != graph.TensorBytes(output) ||
      graph.TensorBytes(input) % depth != 0) {
    return Fail(sim, "the tensors of a softmax do not fit its depth");
  }
  return Append(sim, {input}, output, [&]() -> std::unique_ptr<Layer> {
    return std::make_unique<tflm_zo::sim::SoftmaxLayer>(
        static_cast<int32_t>(graph.TensorBytes(input) / depth), depth, multiplier, left_shift,
        diff_min);
  });
}

int32_t tflm_zo_sim_add_reshape(TflmZoSim* sim, int32_t input, int32_t output) {
  const Graph& graph = sim->graph;
  if (!graph.IsTensor(input) || !graph.IsTensor(output) ||
      graph.TensorBytes(input) != graph.TensorBytes(output)) {
    return Fail(sim, "the tensors of a reshape differ in size");
  }
  return Append(sim, {input}, output, [&]() -> std::unique_ptr<Layer> {
    return std::make_unique<tflm_zo::sim::ReshapeLayer>(graph.TensorBytes(input));
  });
}

int32_t tflm_zo_sim_finish(TflmZoSim* sim) {
  try {
    sim->error.clear();
    if (sim->graph.finished()) return Fail(sim, "finish called twice");
    sim->graph.Finish();
    return 0;
  } catch (const std::exception& exception) {
    return Fail(sim, exception.what());
  }
}

int32_t tflm_zo_sim_run(TflmZoSim* sim, int32_t first, int32_t last, int64_t samples,
                        const int32_t* bound_tensors, int8_t* const* bound_data,
                        int32_t bound_count, int32_t accumulators_layer, int32_t* accumulators) {
  try {
    tflm_zo::sim::RunRequest request{first, last, samples, {}, accumulators_layer, accumulators};
    for (int32_t i = 0; i < bound_count; ++i) {
      request.bindings.push_back({bound_tensors[i], bound_data[i]});
    }
    sim->error = sim->graph.Run(request);
    return sim->error.empty() ? 0 : 1;
  } catch (const std::exception& exception) {
    return Fail(sim, exception.what());
  }
}
