// SPDX-License-Identifier: Apache-2.0
#include "batch_trainer.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "parameter_perturbation.h"

namespace tflm_zo {
namespace sim {
namespace {

// Values of the passes that are carried out together, and of the frozen layers' outputs.
constexpr int64_t kChunkBytes = int64_t{64} << 20;
constexpr int64_t kCacheBytes = int64_t{1} << 30;

// The part of a command that must precede the layers: it changes weights for good.
constexpr uint32_t kStartActions = kInitialise | kUpdate;

bool HasStart(const Command& command) { return (command.actions & kStartActions) != 0; }

Command StartOf(const Command& command) {
  Command start = command;
  start.actions &= kStartActions | kForwardDifference;
  start.sign = 0;
  start.first = start.last = 0;
  start.node_first = start.node_last = 0;
  return start;
}

Command WithoutStart(const Command& command) {
  Command rest = command;
  rest.actions &= ~static_cast<uint32_t>(kStartActions);
  // An update's range is one of parameters; without it, a range that is not looked at.
  if (HasStart(command)) rest.update_first = rest.update_last = 0;
  return rest;
}

// Brings the weights to the state that a command asks for, and does nothing else.
Command StateOf(const Command& command) {
  Command state{};
  state.magic = kCommandMagic;
  state.sign = command.sign;
  state.seed = command.seed;
  state.query = command.query;
  state.first = command.first;
  state.last = command.last;
  return state;
}

}  // namespace

BatchTrainer::BatchTrainer(Graph* graph, OpHost* ops, TrainingGraph training,
                           const TrainingEnds& ends)
    : graph_(graph), ops_(ops), training_(std::move(training)), ends_(ends) {
  for (int32_t layer = 0; layer < graph_->layer_count(); ++layer) {
    for (int i = 0; i < 2; ++i) {
      const int32_t tensor = graph_->Inputs(layer)[i];
      if (tensor < 0) continue;
      last_use_.resize(std::max<size_t>(last_use_.size(), static_cast<size_t>(tensor) + 1), -1);
      last_use_[tensor] = layer;
    }
  }
}

// Whether layers from `layer` on read the tensor.
bool BatchTrainer::Needed(int32_t tensor, int32_t layer) const {
  return static_cast<size_t>(tensor) < last_use_.size() && last_use_[tensor] >= layer;
}

bool BatchTrainer::Invoke(int32_t op) {
  if (ops_->Invoke(op)) return true;
  error_ = ops_->error();
  return false;
}

// A pass of the parameter op alone.
bool BatchTrainer::Give(const Command& command) {
  std::memcpy(ops_->Data(ends_.command), &command, sizeof(command));
  return Invoke(ends_.parameter_op);
}

bool BatchTrainer::ApplyPending(const PassPlan& plan, int32_t pass) {
  if (applied_[pass] || !HasStart(plan[pass].command)) return true;
  applied_[pass] = true;
  return Give(StartOf(plan[pass].command));
}

bool BatchTrainer::SetWeights(const PassPlan& plan, int32_t pass) {
  return Give(StateOf(plan[pass].command));
}

std::string BatchTrainer::Run(const Samples& samples, const Command* commands,
                              const int32_t* indices, int32_t count, Report* reports,
                              int8_t* outputs) {
  const auto& state = *static_cast<const ParameterState*>(ops_->UserData(ends_.parameter_op));
  int64_t bytes = 1;
  for (int32_t layer = 0; layer < graph_->layer_count(); ++layer) {
    bytes += graph_->TensorBytes(graph_->Output(layer));
  }
  const int64_t chunk = std::clamp<int64_t>(kChunkBytes / bytes, 1, 1 << 16);
  error_.clear();
  for (int64_t start = 0; start < count; start += chunk) {
    const int64_t end = std::min<int64_t>(count, start + chunk);
    std::vector<Pass> passes;
    for (int64_t i = start; i < end; ++i) {
      if (indices[i] < 0 || indices[i] >= samples.count) return "a sample index is out of range";
      // As in the parameter op: without the magic word it is inference with clean weights.
      passes.push_back({commands[i].magic == kCommandMagic ? commands[i] : Command{}, indices[i]});
      passes.back().command.magic = kCommandMagic;
    }
    const PassPlan plan(training_, state, std::move(passes));
    const int64_t output_bytes = graph_->TensorBytes(ends_.output);
    const Job job{plan, samples, reports + start,
                  outputs == nullptr ? nullptr : outputs + start * output_bytes};
    if (!RunChunk(job)) return error_;
  }
  return "";
}

bool BatchTrainer::RunChunk(const Job& job) {
  applied_.assign(static_cast<size_t>(job.plan.size()), false);
  int32_t layer = 0;
  State state = Start(job, &layer);
  return RunRange(job, 0, job.plan.size(), layer, std::move(state));
}

// The values that all passes start from: the model's inputs, or what the frozen layers make of
// them.
BatchTrainer::State BatchTrainer::Start(const Job& job, int32_t* layer) const {
  auto rows = std::make_shared<Rows>();
  rows->begin = 0;
  std::vector<int32_t> samples;
  std::map<int32_t, int32_t> row_of_sample;
  for (int32_t i = 0; i < job.plan.size(); ++i) {
    const int32_t sample = job.plan[i].sample;
    const auto found = row_of_sample.emplace(sample, static_cast<int32_t>(samples.size()));
    if (found.second) samples.push_back(sample);
    rows->of_pass.push_back(found.first->second);
  }
  rows->count = static_cast<int32_t>(samples.size());

  State state;
  const auto add = [&](int32_t tensor, const int8_t* all) {
    const int64_t bytes = graph_->TensorBytes(tensor);
    Values values{std::shared_ptr<int8_t[]>(new int8_t[static_cast<size_t>(rows->count * bytes)]),
                  rows};
    for (size_t r = 0; r < samples.size(); ++r) {
      std::memcpy(values.data.get() + static_cast<int64_t>(r) * bytes, all + samples[r] * bytes,
                  static_cast<size_t>(bytes));
    }
    state.emplace_back(tensor, std::move(values));
  };
  *layer = job.samples.cached_layers;
  if (*layer == 0) add(ends_.input, job.samples.input);
  for (const auto& entry : job.samples.cache) add(entry.first, entry.second.get());
  return state;
}

// Carries out passes [begin, end), whose values at `layer` are given. No layer before it changes
// its weights for good in between.
bool BatchTrainer::RunRange(const Job& job, int32_t begin, int32_t end, int32_t layer,
                            State state) {
  if (!ApplyPending(job.plan, begin)) return false;
  const int32_t change = std::max(job.plan.FirstChange(begin, end), layer);
  if (!RunLayers(job, begin, end, layer, change, &state)) return false;
  if (change == training_.layers) return Commit(job, begin, end, state);
  int32_t start = begin;
  for (int32_t i = begin + 1; i <= end; ++i) {
    if (i < end && !job.plan.ChangesBefore(i, change)) continue;
    if (!RunRange(job, start, i, change, state)) return false;
    start = i;
  }
  return true;
}

// The tensors that ops read when passes [begin, end) are committed.
std::vector<int32_t> BatchTrainer::ForOps(const PassPlan& plan, int32_t begin, int32_t end,
                                          bool outputs) const {
  std::vector<int32_t> tensors{ends_.logits};
  if (ends_.features >= 0) tensors.push_back(ends_.features);
  for (const NodePlace& node : training_.nodes) {
    for (int32_t i = begin; i < end; ++i) {
      if (!plan.VisitsNode(i, node)) continue;
      tensors.push_back(node.input);
      tensors.push_back(node.output);
      break;
    }
  }
  if (outputs) {
    for (int32_t layer = training_.layers; layer < graph_->layer_count(); ++layer) {
      for (int i = 0; i < 2; ++i) {
        if (graph_->Inputs(layer)[i] >= 0) tensors.push_back(graph_->Inputs(layer)[i]);
      }
    }
    tensors.push_back(ends_.output);
  }
  return tensors;
}

BatchTrainer::Values BatchTrainer::Regroup(int32_t tensor, const Values& values,
                                           const std::shared_ptr<const Rows>& rows) const {
  const int64_t bytes = graph_->TensorBytes(tensor);
  Values result{std::shared_ptr<int8_t[]>(new int8_t[static_cast<size_t>(rows->count * bytes)]),
                rows};
  int32_t done = 0;  // rows are numbered in the order in which passes first use them
  for (size_t i = 0; i < rows->of_pass.size(); ++i) {
    if (rows->of_pass[i] != done) continue;
    const int32_t source = values.rows->Of(rows->begin + static_cast<int32_t>(i));
    std::memcpy(result.data.get() + done * bytes, values.data.get() + source * bytes,
                static_cast<size_t>(bytes));
    ++done;
  }
  return result;
}

// Runs layers [first, last) for passes [begin, end).
bool BatchTrainer::RunLayers(const Job& job, int32_t begin, int32_t end, int32_t first,
                             int32_t last, State* state) {
  if (first == last) return true;
  const PassPlan& plan = job.plan;
  // Passes in a row with the same weights form a group.
  std::vector<int32_t> groups{begin};
  for (int32_t i = begin + 1; i < end; ++i) {
    if (!plan.SameWeights(i - 1, i)) groups.push_back(i);
  }
  int32_t perturbed_first, perturbed_last;
  plan.PerturbedLayers(begin, end, &perturbed_first, &perturbed_last);
  if (groups.size() == 1) perturbed_first = perturbed_last = training_.layers;
  // Weights outside the perturbed layers are clean in the state of any of these passes.
  if (!SetWeights(plan, begin)) return false;

  // Splits rows by a further property of their passes.
  const auto merge = [&](const Rows* old, const auto& group_of) {
    auto rows = std::make_shared<Rows>();
    rows->begin = begin;
    std::map<std::pair<int32_t, int32_t>, int32_t> known;
    for (int32_t i = begin; i < end; ++i) {
      const auto key = std::make_pair(group_of(i), old->Of(i));
      rows->of_pass.push_back(known.emplace(key, static_cast<int32_t>(known.size())).first->second);
    }
    rows->count = static_cast<int32_t>(known.size());
    return std::shared_ptr<const Rows>(rows);
  };
  std::vector<int32_t> group_of(static_cast<size_t>(end - begin));
  for (size_t g = 0, i = 0; i < group_of.size(); ++i) {
    if (g + 1 < groups.size() && groups[g + 1] == begin + static_cast<int32_t>(i)) ++g;
    group_of[i] = static_cast<int32_t>(g);
  }

  const std::vector<int32_t> for_ops = ForOps(plan, begin, end, job.outputs != nullptr);
  // Passes that agree in all values that layers still read share a row.
  Rows all;
  all.begin = begin;
  all.of_pass.assign(static_cast<size_t>(end - begin), 0);
  std::shared_ptr<const Rows> rows = std::make_shared<Rows>(all);
  for (const auto& entry : *state) {
    if (!Needed(entry.first, first)) continue;
    rows = merge(rows.get(), [&](int32_t i) { return entry.second.rows->Of(i); });
  }

  int32_t layer = first;
  while (layer < last) {
    const bool split = layer >= perturbed_first && layer < perturbed_last;
    if (split && (layer == perturbed_first || layer == first)) {
      rows = merge(rows.get(), [&](int32_t i) { return group_of[i - begin]; });
    }
    int32_t stop = last;
    if (layer < perturbed_first) stop = std::min(stop, perturbed_first);
    if (split) stop = std::min(stop, perturbed_last);
    const NodePlace* perturbed = nullptr;
    for (const NodePlace& node : training_.nodes) {
      if (node.closed_form || node.layer < layer || node.layer >= stop) continue;
      for (int32_t i = begin; i < end; ++i) {
        if (!plan.PerturbsNode(i, node)) continue;
        perturbed = &node;
        stop = node.layer + 1;
        break;
      }
    }
    std::vector<int32_t> kept = for_ops;
    for (int32_t i = layer; i < stop; ++i) {
      if (Needed(graph_->Output(i), stop)) kept.push_back(graph_->Output(i));
    }
    if (perturbed != nullptr) kept.push_back(perturbed->output);
    const std::vector<int32_t> together{begin};
    if (!RunSpan(layer, stop, kept, rows, split ? groups : together, plan, state)) {
      return false;
    }
    if (perturbed != nullptr && !PerturbNode(job, begin, end, *perturbed, state, &rows)) {
      return false;
    }
    layer = stop;
  }
  // What neither a later layer nor an op reads any more.
  state->erase(std::remove_if(state->begin(), state->end(),
                              [&](const auto& entry) {
                                return !Needed(entry.first, last) &&
                                       std::find(for_ops.begin(), for_ops.end(), entry.first) ==
                                           for_ops.end();
                              }),
               state->end());
  return true;
}

// Runs layers [first, last) on all rows, group by group with the weights of the group's first pass.
// Rows of a group must lie together, in the order of the groups.
bool BatchTrainer::RunSpan(int32_t first, int32_t last, const std::vector<int32_t>& kept,
                           const std::shared_ptr<const Rows>& rows,
                           const std::vector<int32_t>& weight_groups, const PassPlan& plan,
                           State* state) {
  std::vector<std::pair<int32_t, int8_t*>> bound;
  for (auto& entry : *state) {
    bool read = false;
    for (int32_t i = first; i < last && !read; ++i) {
      read = graph_->Inputs(i)[0] == entry.first || graph_->Inputs(i)[1] == entry.first;
    }
    // Tensors that ops read from an earlier split stay as they are.
    if (!read && !Needed(entry.first, last)) continue;
    if (entry.second.rows->of_pass != rows->of_pass || entry.second.rows->begin != rows->begin) {
      entry.second = Regroup(entry.first, entry.second, rows);
    }
    if (read) bound.emplace_back(entry.first, entry.second.data.get());
  }
  for (int32_t i = first; i < last; ++i) {
    const int32_t tensor = graph_->Output(i);
    if (std::find(kept.begin(), kept.end(), tensor) == kept.end()) continue;
    const int64_t bytes = graph_->TensorBytes(tensor);
    Values values{std::shared_ptr<int8_t[]>(new int8_t[static_cast<size_t>(rows->count * bytes)]),
                  rows};
    bound.emplace_back(tensor, values.data.get());
    state->emplace_back(tensor, std::move(values));
  }

  for (size_t g = 0; g < weight_groups.size(); ++g) {
    const int32_t first_row = rows->Of(weight_groups[g]);
    const int32_t last_row =
        g + 1 < weight_groups.size() ? rows->Of(weight_groups[g + 1]) : rows->count;
    if (weight_groups.size() > 1 && !SetWeights(plan, weight_groups[g])) return false;
    RunRequest request{first, last, last_row - first_row, {}, -1, nullptr};
    for (const auto& [tensor, data] : bound) {
      request.bindings.push_back({tensor, data + first_row * graph_->TensorBytes(tensor)});
    }
    error_ = graph_->Run(request);
    if (!error_.empty()) return false;
  }
  return true;
}

// Lets the node op perturb its layer's output, each pass that asks for it in a row of its own.
bool BatchTrainer::PerturbNode(const Job& job, int32_t begin, int32_t end, const NodePlace& node,
                               State* state, std::shared_ptr<const Rows>* rows) {
  auto split = std::make_shared<Rows>();
  split->begin = begin;
  std::map<std::pair<int32_t, int32_t>, int32_t> known;
  for (int32_t i = begin; i < end; ++i) {
    const auto key = std::make_pair((*rows)->Of(i), job.plan.PerturbsNode(i, node) ? i : -1);
    split->of_pass.push_back(known.emplace(key, static_cast<int32_t>(known.size())).first->second);
  }
  split->count = static_cast<int32_t>(known.size());
  *rows = split;

  for (auto& entry : *state) {
    if (entry.first != node.output) continue;
    Values values = Regroup(node.output, entry.second, split);
    for (int32_t i = begin; i < end; ++i) {
      if (!job.plan.PerturbsNode(i, node)) continue;
      Command command = StateOf(job.plan[i].command);
      command.node_first = job.plan[i].command.node_first;
      command.node_last = job.plan[i].command.node_last;
      ops_->Point(node.output, values.data.get() + split->Of(i) * graph_->TensorBytes(node.output));
      if (!Give(command) || !Invoke(node.op)) return false;
    }
    entry.second = std::move(values);
  }
  return true;
}

void BatchTrainer::PointAt(const State& state, int32_t tensor, int32_t pass) {
  if (tensor < 0) return;
  for (const auto& entry : state) {
    if (entry.first != tensor) continue;
    ops_->Point(tensor, entry.second.data.get() +
                            entry.second.rows->Of(pass) * graph_->TensorBytes(tensor));
    return;
  }
}

// Lets the ops see passes [begin, end) in their order, as if each had gone through the model alone.
bool BatchTrainer::Commit(const Job& job, int32_t begin, int32_t end, const State& state) {
  if (job.outputs != nullptr && !WriteOutputs(job, begin, end, state)) return false;
  for (int32_t i = begin; i < end; ++i) {
    if (!CommitPass(job, i, state)) return false;
  }
  return true;
}

bool BatchTrainer::CommitPass(const Job& job, int32_t pass, const State& state) {
  const Command& command = job.plan[pass].command;
  if (!ApplyPending(job.plan, pass) || !Give(WithoutStart(command))) return false;
  const auto update = [&](bool closed_form) {
    for (const NodePlace& node : training_.nodes) {
      if (node.closed_form != closed_form || !job.plan.VisitsNode(pass, node)) continue;
      PointAt(state, node.input, pass);
      PointAt(state, node.output, pass);
      if (!Invoke(node.op)) return false;
    }
    return true;
  };
  if (!update(false)) return false;
  PointAt(state, ends_.logits, pass);
  PointAt(state, ends_.features, pass);
  const Samples& samples = job.samples;
  std::memcpy(ops_->Data(ends_.target),
              samples.target + job.plan[pass].sample * samples.target_bytes,
              static_cast<size_t>(samples.target_bytes));
  if (!Invoke(ends_.loss_op) || !update(true)) return false;
  std::memcpy(&job.reports[pass], ops_->Data(ends_.report), sizeof(Report));
  return true;
}

// Runs the layers behind the logits, which have no weights.
bool BatchTrainer::WriteOutputs(const Job& job, int32_t begin, int32_t end, const State& state) {
  const int64_t bytes = graph_->TensorBytes(ends_.output);
  for (int32_t i = begin; i < end; ++i) {
    int8_t* output = job.outputs + i * bytes;
    RunRequest request{training_.layers, graph_->layer_count(), 1, {}, -1, nullptr};
    for (const auto& [tensor, values] : state) {
      int8_t* data = values.data.get() + values.rows->Of(i) * graph_->TensorBytes(tensor);
      if (tensor == ends_.output) {
        std::memcpy(output, data, static_cast<size_t>(bytes));
      } else {
        request.bindings.push_back({tensor, data});
      }
    }
    if (training_.layers == graph_->layer_count()) continue;
    request.bindings.push_back({ends_.output, output});
    error_ = graph_->Run(request);
    if (!error_.empty()) return false;
  }
  return true;
}

std::string BatchTrainer::CacheFrozenLayers(Samples* samples) {
  const auto& state = *static_cast<const ParameterState*>(ops_->UserData(ends_.parameter_op));
  const int32_t frozen = PassPlan(training_, state, {}).FrozenLayers();
  if (frozen == 0) return "";
  std::vector<int32_t> tensors;
  int64_t bytes = 0;
  for (int32_t layer = 0; layer < frozen; ++layer) {
    if (Needed(graph_->Output(layer), frozen)) tensors.push_back(graph_->Output(layer));
  }
  if (Needed(ends_.input, frozen)) tensors.push_back(ends_.input);
  for (int32_t tensor : tensors) bytes += graph_->TensorBytes(tensor);
  if (bytes * samples->count > kCacheBytes) return "";

  RestoreClean(state);
  RunRequest request{0, frozen, samples->count, {}, -1, nullptr};
  // The engine only reads its inputs.
  request.bindings.push_back({ends_.input, const_cast<int8_t*>(samples->input)});
  for (int32_t tensor : tensors) {
    const size_t size = static_cast<size_t>(samples->count * graph_->TensorBytes(tensor));
    samples->cache.emplace_back(tensor, std::shared_ptr<int8_t[]>(new int8_t[size]));
    int8_t* values = samples->cache.back().second.get();
    if (tensor == ends_.input) {
      std::memcpy(values, samples->input, size);
    } else {
      request.bindings.push_back({tensor, values});
    }
  }
  samples->cached_layers = frozen;
  return graph_->Run(request);
}

}  // namespace sim
}  // namespace tflm_zo
