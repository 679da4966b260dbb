// SPDX-License-Identifier: Apache-2.0
//
// Carries out a sequence of training passes, of which as many as possible go through each layer
// together.
//
// The result is that of TFLM, which runs one pass after the other: an op reads and writes what it
// would there, in the same order. Only the layers between the ops are computed ahead of time, as
// far as their weights do not depend on the outcome of an earlier pass, and once for passes that
// agree so far.
#ifndef TFLM_ZO_SIM_BATCH_TRAINER_H_
#define TFLM_ZO_SIM_BATCH_TRAINER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "graph.h"
#include "op_host.h"
#include "pass_plan.h"

namespace tflm_zo {
namespace sim {

// The tensors and ops of the training graph that a pass goes through besides its layers and nodes.
struct TrainingEnds {
  int32_t command;
  int32_t target;
  int32_t report;
  int32_t input;
  int32_t logits;
  int32_t features;  // the head's input, -1 without a head
  int32_t output;
  int32_t parameter_op;
  int32_t loss_op;
};

// Labelled samples. `input` [count][bytes of the model's input] and `target` [count][target_bytes]
// are lent by the caller.
struct Samples {
  const int8_t* input = nullptr;
  const uint8_t* target = nullptr;
  int64_t target_bytes = 0;
  int64_t count = 0;
  // What the first `cached_layers` layers make of them, as far as later ones read it.
  int32_t cached_layers = 0;
  std::vector<std::pair<int32_t, std::shared_ptr<int8_t[]>>> cache;
};

class BatchTrainer {
 public:
  // `graph` and `ops` must outlive the trainer.
  BatchTrainer(Graph* graph, OpHost* ops, TrainingGraph training, const TrainingEnds& ends);

  // Runs `commands` on the samples that `indices` names. Fills reports[i] and, if `outputs` is not
  // null, the model's output of pass i. Returns an empty string or what went wrong.
  std::string Run(const Samples& samples, const Command* commands, const int32_t* indices,
                  int32_t count, Report* reports, int8_t* outputs);

  // Fills the cache of `samples` with what the layers that training leaves alone make of them. It
  // holds until settings or frozen weights change.
  std::string CacheFrozenLayers(Samples* samples);

 private:
  // Which row of a tensor's values a pass reads; passes that agree share one.
  struct Rows {
    int32_t begin;  // first pass
    int32_t count = 0;
    std::vector<int32_t> of_pass;

    int32_t Of(int32_t pass) const { return of_pass[pass - begin]; }
  };

  // The values of a tensor: [rows][bytes].
  struct Values {
    std::shared_ptr<int8_t[]> data;
    std::shared_ptr<const Rows> rows;
  };

  // Values by tensor at some layer, for a range of passes.
  using State = std::vector<std::pair<int32_t, Values>>;

  // The present sequence.
  struct Job {
    const PassPlan& plan;
    const Samples& samples;
    Report* reports;
    int8_t* outputs;
  };

  bool RunChunk(const Job& job);
  State Start(const Job& job, int32_t* layer) const;
  bool RunRange(const Job& job, int32_t begin, int32_t end, int32_t layer, State state);
  bool RunLayers(const Job& job, int32_t begin, int32_t end, int32_t first, int32_t last,
                 State* state);
  bool RunSpan(int32_t first, int32_t last, const std::vector<int32_t>& kept,
               const std::shared_ptr<const Rows>& rows, const std::vector<int32_t>& weight_groups,
               const PassPlan& plan, State* state);
  bool PerturbNode(const Job& job, int32_t begin, int32_t end, const NodePlace& node, State* state,
                   std::shared_ptr<const Rows>* rows);
  bool Commit(const Job& job, int32_t begin, int32_t end, const State& state);
  bool CommitPass(const Job& job, int32_t pass, const State& state);
  bool WriteOutputs(const Job& job, int32_t begin, int32_t end, const State& state);

  bool Needed(int32_t tensor, int32_t layer) const;
  std::vector<int32_t> ForOps(const PassPlan& plan, int32_t begin, int32_t end, bool outputs) const;
  Values Regroup(int32_t tensor, const Values& values,
                 const std::shared_ptr<const Rows>& rows) const;
  bool Give(const Command& command);
  bool ApplyPending(const PassPlan& plan, int32_t pass);
  bool SetWeights(const PassPlan& plan, int32_t pass);
  void PointAt(const State& state, int32_t tensor, int32_t pass);
  bool Invoke(int32_t op);

  Graph* graph_;
  OpHost* ops_;
  TrainingGraph training_;
  TrainingEnds ends_;
  std::vector<int32_t> last_use_;  // by tensor: last layer that reads it, -1 if none does
  std::string error_;
  std::vector<bool> applied_;  // by pass: the update at its start was carried out
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_BATCH_TRAINER_H_
