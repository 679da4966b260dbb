// SPDX-License-Identifier: Apache-2.0
#include "batch_trainer.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "command_parts.h"
#include "parameter_perturbation.h"

namespace tflm_zo {
namespace sim {
namespace {

// Most bytes of the values of passes that are carried out together, and of a cache.
constexpr int64_t kChunkBytes = int64_t{64} << 20;
constexpr int64_t kCacheBytes = int64_t{1} << 30;
constexpr int64_t kMostPassesAtOnce = 1 << 16;

// As the parameter op reads it: without the magic word it is inference with clean weights.
Command Valid(const Command& command) {
  Command valid = command.magic == kCommandMagic ? command : Command{};
  valid.magic = kCommandMagic;
  return valid;
}

}  // namespace

BatchTrainer::BatchTrainer(Graph* graph, OpHost* ops, TrainingGraph training,
                           const TrainingEnds& ends)
    : graph_(graph), ops_(ops, ends), training_(std::move(training)), ends_(ends) {}

void BatchTrainer::RunGraph(const RunRequest& request) {
  const std::string error = graph_->Run(request);
  if (!error.empty()) throw std::runtime_error(error);
}

int32_t BatchTrainer::PassesAtOnce() const {
  int64_t bytes = 1;
  for (int32_t layer = 0; layer < graph_->layer_count(); ++layer) {
    bytes += graph_->TensorBytes(graph_->Output(layer));
  }
  return static_cast<int32_t>(std::clamp<int64_t>(kChunkBytes / bytes, 1, kMostPassesAtOnce));
}

void BatchTrainer::Run(const Samples& samples, const Command* commands, const int32_t* indices,
                       int32_t count, Report* reports, int8_t* outputs) {
  const int64_t output_bytes = graph_->TensorBytes(ends_.output);
  const int64_t at_once = PassesAtOnce();
  for (int64_t start = 0; start < count; start += at_once) {
    const int64_t end = std::min<int64_t>(count, start + at_once);
    std::vector<Pass> passes;
    for (int64_t i = start; i < end; ++i) {
      if (indices[i] < 0 || indices[i] >= samples.count) {
        throw std::out_of_range("a sample index is out of range");
      }
      passes.push_back({Valid(commands[i]), indices[i]});
    }
    const PassPlan plan(training_, ops_.state(), std::move(passes));
    RunChunk({plan, samples, reports + start,
              outputs == nullptr ? nullptr : outputs + start * output_bytes});
  }
}

void BatchTrainer::RunChunk(const Chunk& chunk) {
  changed_.assign(static_cast<size_t>(chunk.plan.size()), false);
  RunFrom(chunk.samples.cached_layers, {0, chunk.plan.size()}, chunk, FirstValues(chunk));
}

// The values that all passes start from: the model's inputs, or the outputs of the cached layers.
LiveTensors BatchTrainer::FirstValues(const Chunk& chunk) const {
  const auto sample_of = [&](int32_t pass) { return chunk.plan[pass].sample; };
  const SharedRows rows = SplitRows(*OneRow({0, chunk.plan.size()}), sample_of);
  LiveTensors live;
  const auto add = [&](int32_t tensor, const int8_t* of_all_samples) {
    const int64_t bytes = graph_->TensorBytes(tensor);
    live.emplace_back(tensor, GatherValues(rows, bytes, [&](int32_t pass) {
                        return of_all_samples + sample_of(pass) * bytes;
                      }));
  };
  if (chunk.samples.cached_layers == 0) add(ends_.input, chunk.samples.input);
  for (const auto& [tensor, values] : chunk.samples.cache) add(tensor, values.get());
  return live;
}

// Carries out passes whose values at `layer` are given, and between which no layer before it
// changes its weights. They go on together up to the first layer that does, and from there in the
// parts between these changes.
void BatchTrainer::RunFrom(int32_t layer, Range passes, const Chunk& chunk, LiveTensors live) {
  ChangeWeights(chunk.plan, passes.begin);
  const int32_t change = std::max(chunk.plan.FirstChange(passes), layer);
  if (layer < change) {
    LayerSweep sweep({graph_, &training_, &ops_}, chunk.plan, {passes, {layer, change}},
                     TensorsForOps(chunk, passes));
    sweep.Run(&live);
  }
  if (change == training_.layers) {
    for (int32_t pass = passes.begin; chunk.outputs != nullptr && pass < passes.end; ++pass) {
      WriteOutput(pass, chunk, live);
    }
    for (int32_t pass = passes.begin; pass < passes.end; ++pass) Commit(pass, chunk, live);
    return;
  }
  int32_t start = passes.begin;
  for (int32_t pass = start + 1; pass <= passes.end; ++pass) {
    if (pass < passes.end && !chunk.plan.ChangesBefore(pass, change)) continue;
    RunFrom(change, {start, pass}, chunk, live);
    start = pass;
  }
}

// The tensors that are read by training ops, and to write outputs, when these passes are committed.
std::vector<int32_t> BatchTrainer::TensorsForOps(const Chunk& chunk, Range passes) const {
  std::vector<int32_t> tensors{ends_.logits};
  if (ends_.features >= 0) tensors.push_back(ends_.features);
  for (const NodePlace& node : training_.nodes) {
    for (int32_t pass = passes.begin; pass < passes.end; ++pass) {
      if (!chunk.plan.VisitsNode(pass, node)) continue;
      tensors.push_back(node.input);
      tensors.push_back(node.output);
      break;
    }
  }
  if (chunk.outputs == nullptr) return tensors;
  for (int32_t layer = training_.layers; layer < graph_->layer_count(); ++layer) {
    for (int32_t input : graph_->Inputs(layer)) tensors.push_back(input);
  }
  tensors.push_back(ends_.output);
  return tensors;
}

// Resets or updates weights as the pass's command asks for, once.
void BatchTrainer::ChangeWeights(const PassPlan& plan, int32_t pass) {
  if (changed_[pass] || !ChangesWeightsFirst(plan[pass].command)) return;
  changed_[pass] = true;
  ops_.RunParameterOp(WeightChanges(plan[pass].command));
}

// Lets the training ops see a pass as if it had gone through the model alone.
void BatchTrainer::Commit(int32_t pass, const Chunk& chunk, const LiveTensors& live) {
  ChangeWeights(chunk.plan, pass);
  ops_.RunParameterOp(WithoutWeightChanges(chunk.plan[pass].command));
  RunNodeOps(false, pass, chunk, live);
  PointAt(ends_.logits, pass, live);
  PointAt(ends_.features, pass, live);
  const Samples& samples = chunk.samples;
  const uint8_t* target = samples.target + chunk.plan[pass].sample * samples.target_bytes;
  ops_.RunLossOp(target, samples.target_bytes);
  RunNodeOps(true, pass, chunk, live);
  chunk.reports[pass] = ops_.report();
}

void BatchTrainer::RunNodeOps(bool closed_form, int32_t pass, const Chunk& chunk,
                              const LiveTensors& live) {
  for (const NodePlace& node : training_.nodes) {
    if (node.closed_form != closed_form || !chunk.plan.VisitsNode(pass, node)) continue;
    PointAt(node.input, pass, live);
    PointAt(node.output, pass, live);
    ops_.RunNodeOp(node.op);
  }
}

// Runs the layers behind the logits, which have no weights.
void BatchTrainer::WriteOutput(int32_t pass, const Chunk& chunk, const LiveTensors& live) {
  const int64_t bytes = graph_->TensorBytes(ends_.output);
  int8_t* output = chunk.outputs + pass * bytes;
  if (const Values* values = Find(live, ends_.output)) {
    std::memcpy(output, values->OfPass(pass), static_cast<size_t>(bytes));
  }
  if (training_.layers == graph_->layer_count()) return;
  RunRequest request{training_.layers, graph_->layer_count(), 1, {}, -1, nullptr};
  for (const auto& [tensor, values] : live) {
    if (tensor != ends_.output) request.bindings.push_back({tensor, values.OfPass(pass)});
  }
  request.bindings.push_back({ends_.output, output});
  RunGraph(request);
}

void BatchTrainer::PointAt(int32_t tensor, int32_t pass, const LiveTensors& live) {
  if (tensor < 0) return;
  const Values* values = Find(live, tensor);
  // Ops must not find the values of a pass that is over.
  if (values == nullptr) throw std::logic_error("an op reads a tensor that no layer computes");
  ops_.Point(tensor, values->OfPass(pass));
}

void BatchTrainer::CacheFrozenLayers(Samples* samples) {
  const int32_t frozen = PassPlan(training_, ops_.state(), {}).FrozenLayers();
  if (frozen == 0) return;
  std::vector<int32_t> tensors;
  for (int32_t layer = 0; layer < frozen; ++layer) {
    if (graph_->IsRead(graph_->Output(layer), frozen)) tensors.push_back(graph_->Output(layer));
  }
  if (graph_->IsRead(ends_.input, frozen)) tensors.push_back(ends_.input);
  int64_t bytes = 0;
  for (int32_t tensor : tensors) bytes += graph_->TensorBytes(tensor);
  if (bytes * samples->count > kCacheBytes) return;

  RestoreClean(ops_.state());
  RunRequest request{0, frozen, samples->count, {}, -1, nullptr};
  // Bindings are not const, as most are written to; the engine only reads its inputs.
  request.bindings.push_back({ends_.input, const_cast<int8_t*>(samples->input)});
  for (int32_t tensor : tensors) {
    const auto size = static_cast<size_t>(samples->count * graph_->TensorBytes(tensor));
    samples->cache.emplace_back(tensor, std::shared_ptr<int8_t[]>(new int8_t[size]));
    int8_t* values = samples->cache.back().second.get();
    if (tensor == ends_.input) {
      std::memcpy(values, samples->input, size);
    } else {
      request.bindings.push_back({tensor, values});
    }
  }
  samples->cached_layers = frozen;
  RunGraph(request);
}

}  // namespace sim
}  // namespace tflm_zo
