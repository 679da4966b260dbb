// SPDX-License-Identifier: Apache-2.0
//
// The training ops on options and tensors from a stranger: what they accept in Prepare they must
// run without leaving their tensors, whose memory here is exactly as large as they are said to be.
//
// An input is a list of 32-bit words: the number of tensors; of each its type (an ElementType), its
// number of elements, and whether it starts with values other than 0; the number of ops; of each
// its kind, its numbers of inputs, outputs and words of options, and these three.
// tests/fuzz_corpus.py writes such lists for patched models.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "host_check.h"
#include "loss_op.h"
#include "node_op.h"
#include "op_host.h"
#include "parameter_op.h"
#include "parameter_perturbation.h"
#include "parameter_state.h"
#include "recalibrate.h"
#include "session.h"

// How many passes have reached their end: for mutate.cc, which wants some of every file.
extern "C" long fuzz_passes;
long fuzz_passes = 0;

namespace {

using tflm_zo::Command;
using tflm_zo::ParameterState;
using tflm_zo::TrainingOpKind;
using tflm_zo::sim::ElementType;
using tflm_zo::sim::OpHost;
using tflm_zo::sim::OpTensor;

constexpr int32_t kMostTensors = 64;
constexpr int32_t kMostOps = 16;
constexpr int32_t kMostIndices = 64;
// Of a tensor: an engine has no memory for more. Passes over a few thousand take no time.
constexpr int32_t kMostElements = 2048;

// Reads the words of an input; once it is at the end all are 0, and ok() is false.
class Words {
 public:
  Words(const uint8_t* data, size_t size) : data_(data), words_(size / 4) {}

  int32_t Next() {
    if (next_ >= words_) {
      ok_ = false;
      return 0;
    }
    int32_t word;
    std::memcpy(&word, data_ + 4 * next_++, sizeof(word));
    return word;
  }

  // A number of things that follow; false and 0 if there cannot be so many.
  int32_t Count(int32_t most) {
    const int32_t count = Next();
    if (count >= 0 && count <= most) return count;
    ok_ = false;
    return 0;
  }

  std::vector<int32_t> Take(int32_t count) {
    std::vector<int32_t> words;
    for (int32_t i = 0; i < count && ok_; ++i) words.push_back(Next());
    return words;
  }

  int32_t left() const { return static_cast<int32_t>(words_ - next_); }
  bool ok() const { return ok_; }

 private:
  const uint8_t* data_;
  size_t words_;
  size_t next_ = 0;
  bool ok_ = true;
};

tflm_zo::Registration RegistrationOf(TrainingOpKind kind) {
  switch (kind) {
    case TrainingOpKind::kParameters:
      return tflm_zo::ParameterOp();
    case TrainingOpKind::kNode:
      return tflm_zo::NodeOp();
    default:
      return tflm_zo::LossOp();
  }
}

// The tensors and ops of an input.
class Model {
 public:
  // False if there is nothing to run: the input ends early, or an op refuses it.
  bool Read(Words* words) {
    std::vector<OpTensor> tensors;
    const int32_t tensor_count = words->Count(kMostTensors);
    for (int32_t i = 0; i < tensor_count; ++i) {
      const int32_t type = words->Next();
      const int32_t elements = words->Next();
      const bool filled = words->Next() != 0;
      if (!words->ok() || elements > kMostElements) return false;
      tensors.push_back(
          {static_cast<ElementType>(type), elements, Allocate(type, elements, filled)});
    }
    host_ = std::make_unique<OpHost>(tensors);
    const int32_t op_count = words->Count(kMostOps);
    for (int32_t i = 0; i < op_count; ++i) {
      if (!AddOp(words)) return false;
    }
    return words->ok() && parameter_op_ >= 0;
  }

  const ParameterState& state() const {
    return *static_cast<const ParameterState*>(host_->UserData(parameter_op_));
  }

  // One pass. The engine has put the command where the parameter op takes it from.
  void Run(const Command& command) {
    std::memcpy(host_->Data(command_), &command, sizeof(command));
    for (int32_t op = 0; op < op_count_; ++op) {
      if (!host_->Invoke(op)) return;
    }
    fuzz_passes += 1;
  }

 private:
  void* Allocate(int32_t type, int32_t elements, bool filled) {
    const size_t bytes = elements < 0 ? 0 : static_cast<size_t>(elements) * (type == 0 ? 1 : 4);
    memory_.push_back(std::make_unique<uint8_t[]>(bytes));
    uint8_t* data = memory_.back().get();
    for (size_t i = 0; filled && i < bytes; ++i) {
      state_ = state_ * 1664525u + 1013904223u;
      // Codes of weights; floats and int32 of a size that models have.
      data[i] = static_cast<uint8_t>(type != 0 && i % 4 == 3 ? state_ >> 31 : state_ >> 24);
    }
    return data;
  }

  bool AddOp(Words* words) {
    const auto kind = static_cast<TrainingOpKind>(words->Next());
    const int32_t input_count = words->Count(kMostIndices);
    const int32_t output_count = words->Count(kMostIndices);
    const int32_t option_words = words->Count(words->left());
    const std::vector<int32_t> inputs = words->Take(input_count);
    const std::vector<int32_t> outputs = words->Take(output_count);
    const std::vector<int32_t> options = words->Take(option_words);
    if (!words->ok()) return false;
    const int32_t op = host_->Add(RegistrationOf(kind), inputs, outputs, options.data(),
                                  options.size() * sizeof(int32_t));
    if (op < 0) return false;
    op_count_ = op + 1;
    if (kind == TrainingOpKind::kParameters) {
      parameter_op_ = op;
      command_ = inputs[tflm_zo::kParameterCommand];
    }
    return true;
  }

  std::unique_ptr<OpHost> host_;
  std::vector<std::unique_ptr<uint8_t[]>> memory_;
  uint32_t state_ = 1;
  int32_t op_count_ = 0;
  int32_t parameter_op_ = -1;
  int32_t command_ = 0;
};

Command MakeCommand(const ParameterState& state, uint32_t actions, int32_t sign = 0) {
  Command command{};
  command.magic = tflm_zo::kCommandMagic;
  command.actions = actions;
  command.sign = sign;
  command.seed = 7;
  command.query = sign == 0 ? 0 : tflm_zo::kMaxQueries - 1;
  const bool updates_nodes = (actions & tflm_zo::kNodeUpdate) != 0;
  command.node_last = state.options->node_count;
  command.last = state.options->parameter_count;
  command.update_last = updates_nodes ? command.node_last : command.last;
  command.update_queries = tflm_zo::kMaxQueries;
  command.update_scale = command.update_rate = command.node_rate = 1.0f;
  command.head_rate = 0.5f;
  return command;
}

void SetSteps(const ParameterState& state, tflm_zo::Mask mask) {
  for (int32_t p = 0; p < state.options->parameter_count; ++p) {
    const int32_t headroom = tflm_zo::Entries(state.options)[p].headroom;
    tflm_zo::Configure(state, p, headroom < 4 ? headroom : 4, 0.1f, mask);
  }
  for (int32_t n = 0; n < state.options->node_count; ++n) {
    tflm_zo::ConfigureNode(state, n, 4, 2, 0.1f, mask);
  }
}

// What a host does with the state of the ops between passes.
void ReadAndWrite(const ParameterState& state) {
  tflm_zo::RestoreClean(state);
  tflm_zo::ParameterView view;
  for (int32_t p = 0; tflm_zo::GetParameter(state, p, &view); ++p) {
    const size_t bytes = static_cast<size_t>(view.count) * ElementBytes(view.entry->kind);
    std::vector<uint64_t> copy(bytes / 8 + 1);  // aligned for all types
    std::memcpy(copy.data(), view.data, bytes);
    tflm_zo::WriteParameter(state, p, copy.data(), view.count);
  }
  const int32_t channels = state.options->reference_channels;
  if (channels < 1) return;
  std::vector<tflm_zo::ChannelSum> memory(static_cast<size_t>(channels));
  const std::vector<int8_t> sample(static_cast<size_t>(channels), 5);
  tflm_zo::ChannelSums sums(memory.data(), channels, static_cast<uint32_t>(channels));
  for (int i = 0; i < 3; ++i) sums.Add(sample.data());
  tflm_zo::Recalibrate(state, sums);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tflm_zo;
  Words words(data, size);
  Model model;
  try {
    if (!model.Read(&words)) return 0;
  } catch (const std::out_of_range&) {
    return 0;  // an op names a tensor that there is not
  }
  const ParameterState& state = model.state();
  model.Run(Command{});
  for (const Mask mask : {Mask{}, Mask{kRandomChannels, 0x3F00}}) {
    SetSteps(state, mask);
    model.Run(MakeCommand(state, kClearLosses | kLoss | kAccumulate));
    for (int32_t sign : {1, -1}) model.Run(MakeCommand(state, kLoss | kAccumulate, sign));
    model.Run(MakeCommand(state, kUpdate));
    model.Run(MakeCommand(state, kLoss | kHeadUpdate | kNodeBegin | kNodeApply));
    model.Run(MakeCommand(state, kLoss | kNodeUpdate | kNodeBegin | kNodeApply));
    model.Run(MakeCommand(state, kLoss | kMeasure));
    ReadAndWrite(state);
  }
  model.Run(MakeCommand(state, kInitialise));
  return 0;
}
