// SPDX-License-Identifier: Apache-2.0
#include "train_api.h"

#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "batch_trainer.h"
#include "loss_op.h"
#include "node_op.h"
#include "op_host.h"
#include "parameter_op.h"
#include "sim_handle.h"

using tflm_zo::sim::BatchTrainer;
using tflm_zo::sim::ElementType;
using tflm_zo::sim::OpHost;
using tflm_zo::sim::OpTensor;
using tflm_zo::sim::TrainingEnds;
using tflm_zo::sim::TrainingGraph;

struct TflmZoSimTrainer {
  std::unique_ptr<OpHost> ops;
  std::unique_ptr<BatchTrainer> trainer;
  int64_t target_bytes = 0;
  std::string error;
};

struct TflmZoSimSamples {
  tflm_zo::sim::Samples samples;
};

namespace {

std::vector<OpTensor> Tensors(const TflmZoSimTraining& training) {
  std::vector<OpTensor> tensors;
  for (int32_t i = 0; i < training.tensor_count; ++i) {
    const TflmZoSimTrainingTensor& tensor = training.tensors[i];
    tensors.push_back({static_cast<ElementType>(tensor.type), tensor.elements, tensor.data});
  }
  return tensors;
}

int32_t AddOp(OpHost* ops, const tflm_zo::Registration& registration,
              const TflmZoSimTrainingOp& op) {
  return ops->Add(registration, {op.inputs, op.inputs + op.input_count},
                  {op.outputs, op.outputs + op.output_count}, op.options,
                  static_cast<size_t>(op.option_bytes));
}

// Refuses what would lead the trainer out of its tensors and layers. An op has checked its tensors
// against its options, but not what the engine keeps in their place.
class GraphCheck {
 public:
  GraphCheck(const TflmZoSimTraining& training, const tflm_zo::sim::Graph& graph)
      : training_(training), graph_(graph) {}

  // Throws std::invalid_argument for what does not fit.
  void Run() const {
    const TflmZoSimTraining& t = training_;
    for (int32_t tensor : {t.command, t.target, t.report}) {
      Require(IsTensor(tensor) && t.tensors[tensor].data != nullptr, "an end of the model");
    }
    for (int32_t tensor : {t.input, t.logits, t.output}) {
      Require(IsComputed(tensor), "an end of the model");
    }
    Require(t.features < 0 || IsComputed(t.features), "the head's input");
    Require(t.layers >= 0 && t.layers <= graph_.layer_count() && t.head_layer < t.layers,
            "the layers");
    for (int32_t i = 0; i < t.parameter_count; ++i) {
      Require(t.parameters[i].last_layer < graph_.layer_count(), "a parameter's layer");
    }
    for (int32_t i = 0; i < t.node_count; ++i) {
      const TflmZoSimTrainingNode& node = t.nodes[i];
      Require((node.input < 0 || IsComputed(node.input)) && IsComputed(node.output) &&
                  node.layer >= 0 && node.layer < t.layers && node.first_change >= 0,
              "a node's layer");
    }
  }

  // The same for what only the options of the ops know.
  void Run(const tflm_zo::ParameterOptions& options) const {
    Require(training_.parameter_count == options.parameter_count, "the number of parameters");
    for (int32_t i = 0; i < training_.node_count; ++i) {
      const int32_t number = training_.nodes[i].number;
      Require(number >= 0 && number < options.node_count, "a node's number");
    }
  }

 private:
  static void Require(bool fits, const char* what) {
    if (!fits) throw std::invalid_argument(std::string(what) + " does not fit the model");
  }

  bool IsTensor(int32_t tensor) const { return tensor >= 0 && tensor < training_.tensor_count; }

  // Whether the engine has a tensor of the size that ops see.
  bool IsComputed(int32_t tensor) const {
    return IsTensor(tensor) && graph_.IsTensor(tensor) &&
           graph_.TensorBytes(tensor) == training_.tensors[tensor].elements;
  }

  const TflmZoSimTraining& training_;
  const tflm_zo::sim::Graph& graph_;
};

// Prepares the ops and fills the trainer, or leaves an error in it.
void Fill(TflmZoSimTrainer* trainer, TflmZoSim* sim, const TflmZoSimTraining& training) {
  const GraphCheck check(training, sim->graph);
  check.Run();
  trainer->ops = std::make_unique<OpHost>(Tensors(training));
  OpHost* ops = trainer->ops.get();
  TrainingEnds ends{};
  ends.command = training.command;
  ends.target = training.target;
  ends.report = training.report;
  ends.input = training.input;
  ends.logits = training.logits;
  ends.features = training.features;
  ends.output = training.output;
  ends.parameter_op = AddOp(ops, tflm_zo::ParameterOp(), training.parameter_op);
  TrainingGraph graph;
  graph.layers = training.layers;
  graph.head_layer = training.head_layer;
  bool good = ends.parameter_op >= 0;
  for (int32_t i = 0; i < training.parameter_count; ++i) {
    graph.parameters.push_back(
        {training.parameters[i].first_layer, training.parameters[i].last_layer});
  }
  for (int32_t i = 0; good && i < training.node_count; ++i) {
    const TflmZoSimTrainingNode& node = training.nodes[i];
    const int32_t op = AddOp(ops, tflm_zo::NodeOp(), node.op);
    graph.nodes.push_back({op, node.number, node.layer, node.first_change, node.input, node.output,
                           node.closed_form != 0, node.accumulates != 0});
    good = op >= 0;
  }
  if (good) ends.loss_op = AddOp(ops, tflm_zo::LossOp(), training.loss_op);
  if (!good || ends.loss_op < 0) {
    trainer->error = ops->error();
    return;
  }
  const auto* state = static_cast<const tflm_zo::ParameterState*>(ops->UserData(ends.parameter_op));
  check.Run(*state->options);
  const TflmZoSimTrainingTensor& target = training.tensors[training.target];
  trainer->target_bytes = static_cast<int64_t>(target.elements) * (target.type == 0 ? 1 : 4);
  trainer->trainer = std::make_unique<BatchTrainer>(&sim->graph, ops, std::move(graph), ends);
}

// Exceptions must not cross the C interface: they become the trainer's error.
template <class Action>
int32_t Try(TflmZoSimTrainer* trainer, const Action& action) {
  try {
    trainer->error.clear();
    action();
  } catch (const std::exception& exception) {
    trainer->error = exception.what();
  }
  return trainer->error.empty() ? 0 : 1;
}

}  // namespace

TflmZoSimTrainer* tflm_zo_sim_trainer_create(TflmZoSim* sim, const TflmZoSimTraining* training) {
  try {
    auto trainer = std::make_unique<TflmZoSimTrainer>();
    Try(trainer.get(), [&] { Fill(trainer.get(), sim, *training); });
    return trainer.release();
  } catch (const std::exception&) {
    return nullptr;
  }
}

void tflm_zo_sim_trainer_destroy(TflmZoSimTrainer* trainer) { delete trainer; }

const void* tflm_zo_sim_trainer_state(const TflmZoSimTrainer* trainer) {
  return &trainer->trainer->state();
}

const char* tflm_zo_sim_trainer_error(const TflmZoSimTrainer* trainer) {
  return trainer->error.c_str();
}

TflmZoSimSamples* tflm_zo_sim_samples_create(TflmZoSimTrainer* trainer, const int8_t* input,
                                             const void* target, int64_t samples, int32_t cache) {
  std::unique_ptr<TflmZoSimSamples> made;
  const int32_t status = Try(trainer, [&] {
    made = std::make_unique<TflmZoSimSamples>();
    made->samples.input = input;
    made->samples.target = static_cast<const uint8_t*>(target);
    made->samples.target_bytes = trainer->target_bytes;
    made->samples.count = samples;
    if (cache != 0) trainer->trainer->CacheFrozenLayers(&made->samples);
  });
  return status == 0 ? made.release() : nullptr;
}

void tflm_zo_sim_samples_destroy(TflmZoSimSamples* samples) { delete samples; }

int32_t tflm_zo_sim_trainer_run(TflmZoSimTrainer* trainer, const TflmZoSimSamples* samples,
                                const void* commands, const int32_t* indices, int32_t count,
                                void* reports, int8_t* outputs) {
  return Try(trainer, [&] {
    trainer->trainer->Run(samples->samples, static_cast<const tflm_zo::Command*>(commands), indices,
                          count, static_cast<tflm_zo::Report*>(reports), outputs);
  });
}
