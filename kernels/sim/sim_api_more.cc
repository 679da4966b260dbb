// SPDX-License-Identifier: Apache-2.0
//
// Appends the operators that are neither layers with trainable weights nor tables or moves of
// codes.
#include <cstdint>
#include <memory>
#include <vector>

#include "append.h"
#include "blend.h"
#include "lstm.h"
#include "matmul.h"
#include "sim_api.h"
#include "transpose_conv.h"

using tflm_zo::sim::Append;
using tflm_zo::sim::Fail;
using tflm_zo::sim::Graph;
using tflm_zo::sim::Layer;
using tflm_zo::sim::MakeOperand;
using tflm_zo::sim::Places;

int32_t tflm_zo_sim_add_matmul(TflmZoSim* sim, const TflmZoSimOperand* left,
                               const TflmZoSimOperand* right, int32_t output,
                               const TflmZoSimMatmulParams* params) {
  const Graph& graph = sim->graph;
  const TflmZoSimMatmulParams& p = *params;
  if (p.batches < 1 || p.rows < 1 || p.columns < 1 || p.depth < 1) {
    return Fail(sim, "a matrix product has a size out of range");
  }
  const int64_t rows = static_cast<int64_t>(p.batches) * p.rows;
  if (!graph.IsTensor(output) || graph.TensorBytes(output) != rows * p.columns) {
    return Fail(sim, "the output of a matrix product does not fit its sizes");
  }
  const int64_t columns = static_cast<int64_t>(p.batches) * p.columns;
  std::vector<int32_t> inputs;
  for (const TflmZoSimOperand* operand : {left, right}) {
    if (operand->tensor >= 0) inputs.push_back(operand->tensor);
  }
  return Append(sim, inputs, output, [&]() -> std::unique_ptr<Layer> {
    return std::make_unique<tflm_zo::sim::MatmulLayer>(
        p, MakeOperand(graph, *left, 0, rows * p.depth),
        MakeOperand(graph, *right, left->tensor < 0 ? 0 : 1, columns * p.depth));
  });
}

int32_t tflm_zo_sim_add_transpose_conv(TflmZoSim* sim, int32_t input, int32_t output,
                                       const TflmZoSimWindow* window, int32_t output_channels,
                                       const int8_t* weights, const int32_t* bias,
                                       const TflmZoSimQuantization* quantization) {
  const Graph& graph = sim->graph;
  const TflmZoSimWindow& w = *window;
  if (!graph.IsTensor(input) || !graph.IsTensor(output) || output_channels < 1 ||
      graph.TensorBytes(input) !=
          static_cast<int64_t>(w.input_height) * w.input_width * w.channels ||
      graph.TensorBytes(output) !=
          static_cast<int64_t>(w.output_height) * w.output_width * output_channels) {
    return Fail(sim, "the window does not fit its tensors");
  }
  return Append(sim, {input}, output, [&]() -> std::unique_ptr<Layer> {
    return std::make_unique<tflm_zo::sim::TransposeConvLayer>(w, output_channels, weights, bias,
                                                              *quantization);
  });
}

int32_t tflm_zo_sim_add_blend(TflmZoSim* sim, int32_t input, int32_t output, const int32_t* places,
                              const int32_t* weights) {
  return Append(sim, {input}, output, [&]() -> std::unique_ptr<Layer> {
    const Graph& graph = sim->graph;
    const int64_t count = graph.TensorBytes(output) * tflm_zo::sim::kBlended;
    return std::make_unique<tflm_zo::sim::BlendLayer>(
        graph.TensorBytes(input), Places(places, count, 0, graph.TensorBytes(input)),
        std::vector<int32_t>(weights, weights + count));
  });
}

int32_t tflm_zo_sim_add_lstm(TflmZoSim* sim, int32_t input, int32_t output,
                             const TflmZoSimLstmParams* params, const int8_t* weights,
                             const int32_t* bias, const int32_t* rescalings,
                             const int16_t* tables) {
  const Graph& graph = sim->graph;
  if (params->steps < 1 || params->inputs < 1 || params->units < 1 || !graph.IsTensor(input) ||
      !graph.IsTensor(output) ||
      graph.TensorBytes(input) != static_cast<int64_t>(params->steps) * params->inputs ||
      graph.TensorBytes(output) != static_cast<int64_t>(params->steps) * params->units) {
    return Fail(sim, "the tensors of an LSTM do not fit its sizes");
  }
  return Append(sim, {input}, output, [&]() -> std::unique_ptr<Layer> {
    return std::make_unique<tflm_zo::sim::LstmLayer>(*params, weights, bias, rescalings, tables);
  });
}
