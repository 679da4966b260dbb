// SPDX-License-Identifier: Apache-2.0
//
// Carries out a sequence of training passes with the results of TFLM, which runs one pass after the
// other.
//
// The training ops run as they do there: pass by pass, on the same values. The layers between them
// are computed ahead, each for many passes at once, unless its weights depend on an op of an
// earlier pass that has not run yet (pass_plan.h), and once for all passes that agree in
// input and weights (layer_sweep.h).
#ifndef TFLM_ZO_SIM_BATCH_TRAINER_H_
#define TFLM_ZO_SIM_BATCH_TRAINER_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "graph.h"
#include "layer_sweep.h"
#include "op_host.h"
#include "pass_plan.h"
#include "pass_values.h"
#include "range.h"
#include "training_ops.h"

namespace tflm_zo {
namespace sim {

// Labelled samples. `input` [count][bytes of the model's input] and `target` [count][target_bytes]
// are lent by the caller.
struct Samples {
  const int8_t* input = nullptr;
  const uint8_t* target = nullptr;
  int64_t target_bytes = 0;
  int64_t count = 0;
  // The outputs, for all samples, of those of the first `cached_layers` layers that later layers
  // read.
  int32_t cached_layers = 0;
  std::vector<std::pair<int32_t, std::shared_ptr<int8_t[]>>> cache;
};

class BatchTrainer {
 public:
  // `graph` and `ops` must outlive the trainer.
  BatchTrainer(Graph* graph, OpHost* ops, TrainingGraph training, const TrainingEnds& ends);
  BatchTrainer(const BatchTrainer&) = delete;
  BatchTrainer& operator=(const BatchTrainer&) = delete;

  // State of the parameter op.
  const ParameterState& state() const { return ops_.state(); }

  // Runs `commands` on the samples that `indices` names. Fills reports[i] and, if `outputs` is not
  // null, the model's output of pass i. Throws std::exception if an argument is wrong or an op
  // fails.
  void Run(const Samples& samples, const Command* commands, const int32_t* indices, int32_t count,
           Report* reports, int8_t* outputs);

  // Computes the layers in front that training does not change, once for all samples, and keeps the
  // results in `samples`, unless they are too large. They hold until hyperparameters or the weights
  // of these layers change. Throws std::exception if the engine fails.
  void CacheFrozenLayers(Samples* samples);

 private:
  // Passes that are carried out together.
  struct Chunk {
    const PassPlan& plan;
    const Samples& samples;
    Report* reports;
    int8_t* outputs;  // or nullptr
  };

  int32_t PassesAtOnce() const;
  void RunChunk(const Chunk& chunk);
  LiveTensors FirstValues(const Chunk& chunk) const;
  void RunFrom(int32_t layer, Range passes, const Chunk& chunk, LiveTensors live);
  std::vector<int32_t> TensorsForOps(const Chunk& chunk, Range passes) const;
  void ChangeWeights(const PassPlan& plan, int32_t pass);
  void Commit(int32_t pass, const Chunk& chunk, const LiveTensors& live);
  void RunNodeOps(bool closed_form, int32_t pass, const Chunk& chunk, const LiveTensors& live);
  void WriteOutput(int32_t pass, const Chunk& chunk, const LiveTensors& live);
  void PointAt(int32_t tensor, int32_t pass, const LiveTensors& live);
  void RunGraph(const RunRequest& request);

  Graph* graph_;
  TrainingOps ops_;
  TrainingGraph training_;
  TrainingEnds ends_;
  std::vector<bool> changed_;  // by pass of the chunk: its ChangeWeights was carried out
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_BATCH_TRAINER_H_
