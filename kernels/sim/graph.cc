// SPDX-License-Identifier: Apache-2.0
#include "graph.h"

#include <algorithm>
#include <utility>

namespace tflm_zo {
namespace sim {
namespace {

// Intermediate tensors of the samples in flight should fit a second-level cache, weights included.
constexpr int64_t kChunkBytes = 256 * 1024;
constexpr int64_t kMaxChunk = 256;

}  // namespace

Graph::Graph(std::vector<int64_t> tensor_bytes, const KernelTable* kernels)
    : tensor_bytes_(std::move(tensor_bytes)),
      kernels_(kernels),
      last_reader_(tensor_bytes_.size(), -1) {}

bool Graph::IsTensor(int32_t tensor) const {
  return tensor >= 0 && tensor < static_cast<int32_t>(tensor_bytes_.size()) &&
         tensor_bytes_[tensor] > 0;
}

void Graph::Add(std::unique_ptr<Layer> layer, std::vector<int32_t> inputs, int32_t output) {
  for (int32_t input : inputs) last_reader_[input] = layer_count();
  nodes_.push_back({std::move(layer), std::move(inputs), output});
}

void Graph::PlanSlots() {
  const int32_t layers = static_cast<int32_t>(nodes_.size());
  std::vector<int32_t> last_use = last_reader_;
  for (int32_t i = 0; i < layers; ++i) {
    last_use[nodes_[i].output] = std::max(last_use[nodes_[i].output], i);
  }
  slot_.assign(tensor_bytes_.size(), -1);
  std::vector<bool> taken;
  for (int32_t i = 0; i < layers; ++i) {
    const int32_t output = nodes_[i].output;
    // The free slot whose size is nearest: it has to grow least, or wastes least.
    int64_t best = -1;
    for (size_t s = 0; s < taken.size(); ++s) {
      const auto misfit = [&](size_t slot) {
        return std::abs(slot_bytes_[slot] - tensor_bytes_[output]);
      };
      if (!taken[s] && (best < 0 || misfit(s) < misfit(static_cast<size_t>(best)))) {
        best = static_cast<int64_t>(s);
      }
    }
    if (best < 0) {
      best = static_cast<int64_t>(taken.size());
      taken.push_back(true);
      slot_bytes_.push_back(0);
    }
    taken[best] = true;
    slot_[output] = best;
    slot_bytes_[best] = std::max(slot_bytes_[best], tensor_bytes_[output]);
    for (size_t t = 0; t < last_use.size(); ++t) {
      if (last_use[t] == i && slot_[t] >= 0) taken[slot_[t]] = false;
    }
  }
}

void Graph::Finish() {
  PlanSlots();
  int64_t total = 1;
  for (int64_t bytes : slot_bytes_) total += bytes;
  chunk_ = std::clamp<int64_t>(kChunkBytes / total, 1, kMaxChunk);
  for (int64_t bytes : slot_bytes_) slot_data_.emplace_back(static_cast<size_t>(bytes * chunk_));
  int64_t scratch = 0;
  for (const Node& node : nodes_) scratch = std::max(scratch, node.layer->ScratchBytes());
  scratch_.resize(static_cast<size_t>(scratch));
  finished_ = true;
}

std::string Graph::Check(const RunRequest& request) const {
  if (!finished_) return "run called before finish";
  if (request.first < 0 || request.last > static_cast<int32_t>(nodes_.size()) ||
      request.first > request.last) {
    return "layers [" + std::to_string(request.first) + ", " + std::to_string(request.last) +
           ") are not within [0, " + std::to_string(nodes_.size()) + ")";
  }
  if (request.samples < 0) return "negative number of samples";
  std::vector<bool> available(tensor_bytes_.size(), false);
  for (const Binding& binding : request.bindings) {
    if (!IsTensor(binding.tensor)) {
      return "tensor " + std::to_string(binding.tensor) + " does not exist or has no data";
    }
    available[binding.tensor] = true;
  }
  for (int32_t i = request.first; i < request.last; ++i) {
    for (int32_t input : nodes_[i].inputs) {
      if (!available[input]) {
        return "layer " + std::to_string(i) + " reads tensor " + std::to_string(input) +
               ", which is neither given nor computed by layers " + std::to_string(request.first) +
               " to " + std::to_string(i);
      }
    }
    available[nodes_[i].output] = true;
  }
  if (request.accumulators != nullptr) {
    const int32_t layer = request.accumulators_layer;
    if (layer < request.first || layer >= request.last || !nodes_[layer].layer->HasAccumulators()) {
      return "layer " + std::to_string(layer) + " is not one with accumulators among those to run";
    }
  }
  return "";
}

std::string Graph::Run(const RunRequest& request) {
  const std::string problem = Check(request);
  if (!problem.empty()) return problem;
  std::vector<int8_t*> bound(tensor_bytes_.size(), nullptr);
  for (const Binding& binding : request.bindings) bound[binding.tensor] = binding.data;
  for (int32_t i = request.first; i < request.last; ++i) nodes_[i].layer->Refresh();
  std::vector<const int8_t*> inputs;

  for (int64_t start = 0; start < request.samples; start += chunk_) {
    const auto data = [&](int32_t tensor) -> int8_t* {
      if (bound[tensor] != nullptr) return bound[tensor] + start * tensor_bytes_[tensor];
      return slot_data_[slot_[tensor]].data();
    };
    LayerIo io;
    io.samples = static_cast<int32_t>(std::min(chunk_, request.samples - start));
    io.scratch = scratch_.data();
    for (int32_t i = request.first; i < request.last; ++i) {
      const Node& node = nodes_[i];
      inputs.clear();
      for (int32_t input : node.inputs) inputs.push_back(data(input));
      io.inputs = inputs.data();
      io.output = data(node.output);
      const bool wanted = request.accumulators != nullptr && i == request.accumulators_layer;
      io.accumulators =
          wanted ? request.accumulators + start * tensor_bytes_[node.output] : nullptr;
      node.layer->Run(io);
    }
  }
  return "";
}

}  // namespace sim
}  // namespace tflm_zo
