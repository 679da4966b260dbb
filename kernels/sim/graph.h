// SPDX-License-Identifier: Apache-2.0
//
// The layers of a model, the memory of its intermediate tensors, and runs over a batch.
#ifndef TFLM_ZO_SIM_GRAPH_H_
#define TFLM_ZO_SIM_GRAPH_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "layer.h"

namespace tflm_zo {
namespace sim {

// A tensor that the caller lends for a run: int8 [samples][tensor bytes].
struct Binding {
  int32_t tensor;
  int8_t* data;
};

// The layers [first, last) on `samples` samples.
struct RunRequest {
  int32_t first;
  int32_t last;
  int64_t samples;
  std::vector<Binding> bindings;
  int32_t accumulators_layer;
  int32_t* accumulators;  // null if they are not wanted
};

class Graph {
 public:
  // Tensors are named by their index in `tensor_bytes`, their sizes for one sample.
  Graph(std::vector<int64_t> tensor_bytes, const KernelTable* kernels);

  const KernelTable* kernels() const { return kernels_; }
  bool IsTensor(int32_t tensor) const;
  int64_t TensorBytes(int32_t tensor) const { return tensor_bytes_[tensor]; }
  bool finished() const { return finished_; }
  int32_t layer_count() const { return static_cast<int32_t>(nodes_.size()); }
  // The tensors that layer `layer` reads and the one that it writes.
  const std::vector<int32_t>& Inputs(int32_t layer) const { return nodes_[layer].inputs; }
  int32_t Output(int32_t layer) const { return nodes_[layer].output; }
  // Whether layer `first_layer` or a later one reads the tensor.
  bool IsRead(int32_t tensor, int32_t first_layer) const {
    return last_reader_[tensor] >= first_layer;
  }

  void Add(std::unique_ptr<Layer> layer, std::vector<int32_t> inputs, int32_t output);

  // Gives each layer's output a place in memory that it shares with tensors not alive at the same
  // time, and chooses how many samples go through all layers together, so that they stay cached.
  void Finish();

  // Returns an empty string, or what is wrong with the request.
  std::string Run(const RunRequest& request);

 private:
  struct Node {
    std::unique_ptr<Layer> layer;
    std::vector<int32_t> inputs;
    int32_t output;
  };

  std::string Check(const RunRequest& request) const;
  void PlanSlots();

  std::vector<int64_t> tensor_bytes_;
  const KernelTable* kernels_;
  std::vector<Node> nodes_;
  std::vector<int32_t> last_reader_;  // of each tensor: the last layer that reads it, -1 if none
  bool finished_ = false;
  int64_t chunk_ = 0;                // samples processed together
  std::vector<int64_t> slot_;        // of each tensor: its slot, -1 if no layer computes it
  std::vector<int64_t> slot_bytes_;  // for one sample
  std::vector<std::vector<int8_t>> slot_data_;
  std::vector<uint8_t> scratch_;
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_GRAPH_H_
