// SPDX-License-Identifier: Apache-2.0
//
// What operators of a model carry from pass to pass is cleared by the parameter op, in each pass.
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "check.h"
#include "op_options.h"
#include "parameter_op.h"
#include "session.h"

using namespace tflm_zo;

namespace {

constexpr int32_t kCells = 5;
constexpr int32_t kWords = 3;
// Of int16, which the ops have no name for.
constexpr auto kInt16 = static_cast<abi::Type>(7);

// A parameter op that owns nothing but two states.
class Stateful {
 public:
  Stateful() {
    options_.head.magic = kParameterOptionsMagic;
    options_.head.version = kOptionsVersion;
    options_.head.state_count = 2;
    options_.states[0] = {2, kCells, 0xF9};
    options_.states[1] = {3, kWords * 2, 0};
    Set(0, command_, abi::kInt32, kCommandWords);
    Set(1, session_, abi::kInt32, kSessionWords);
    Set(2, cells, abi::kInt8, kCells);
    Set(3, words, kInt16, kWords);
    node_.inputs = reinterpret_cast<abi::IntArray*>(&inputs_);
    node_.outputs = reinterpret_cast<abi::IntArray*>(&outputs_);
    context_.impl = this;
    context_.ReportError = &Ignore;
    context_.AllocatePersistentBuffer = [](Context* c, size_t) -> void* { return Self(c)->state_; };
    context_.GetEvalTensor = [](const Context* c, int i) { return &Self(c)->tensors_[i]; };
  }

  // False: the op refuses its options.
  bool Start(size_t bytes = sizeof(Options)) {
    node_.user_data =
        ParameterOp().init(&context_, reinterpret_cast<const char*>(&options_), bytes);
    return ParameterOp().prepare(&context_, &node_) == kOk;
  }

  bool Invoke(uint32_t magic) {
    Command command{};
    command.magic = magic;
    std::memcpy(command_, &command, sizeof(command));
    return ParameterOp().invoke(&context_, &node_) == kOk;
  }

  StateEntry& entry(int32_t index) { return options_.states[index]; }

  int8_t cells[kCells];
  int16_t words[kWords];

 private:
  struct Options {
    ParameterOptions head;
    StateEntry states[2];
  };

  static void Ignore(Context*, const char*, ...) {}
  static Stateful* Self(const Context* context) { return static_cast<Stateful*>(context->impl); }

  void Set(int index, void* data, abi::Type type, int count) {
    shapes_[index] = {1, {count}};
    tensors_[index] = {data, &shapes_[index], type};
  }

  Options options_{};
  struct {
    int size = 4;
    int data[4] = {0, 1, 2, 3};
  } inputs_;
  struct {
    int size = 0;
    int data[1];
  } outputs_;
  int32_t command_[kCommandWords] = {};
  alignas(8) int32_t session_[kSessionWords] = {};
  alignas(16) uint8_t state_[64];
  abi::IntArray shapes_[4];
  EvalTensor tensors_[4];
  Node node_{};
  Context context_{};
};

}  // namespace

TEST(EveryPassBeginsWithClearedStates) {
  Stateful states;
  CHECK(states.Start());
  // With a command, and without one, as a program that knows nothing of training runs the model.
  for (const bool commands : {true, false, true}) {
    std::memset(states.cells, 55, sizeof(states.cells));
    std::memset(states.words, 55, sizeof(states.words));
    CHECK(states.Invoke(commands ? kCommandMagic : 0));
    for (const int8_t cell : states.cells) CHECK_EQ(cell, -7);
    for (const int16_t word : states.words) CHECK_EQ(word, 0);
  }
}

TEST(StatesThatMatchNoTensorAreRefused) {
  Stateful elsewhere;
  elsewhere.entry(1).input = 4;
  CHECK(!elsewhere.Start());
  Stateful shorter;
  shorter.entry(0).bytes = kCells - 1;
  CHECK(!shorter.Start());
  Stateful truncated;
  CHECK(!truncated.Start(sizeof(ParameterOptions) + sizeof(StateEntry)));
}

CHECK_MAIN()
