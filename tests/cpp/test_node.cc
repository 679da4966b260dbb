// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "check.h"
#include "node_op.h"
#include "node_perturbation.h"
#include "op_options.h"
#include "session.h"
#include "vectors.h"
#include "weight_gradient.h"

using namespace tflm_zo;

namespace {

// 5 x 4 x 2 inputs, 3 x 3 filters of stride 2 and dilation 1 with padding: 3 x 2 outputs of 3
// channels.
constexpr LayerShape kConv{kConvolution, 5, 4, 2, 3, 2, 3, 3, 3, 2, 2, 1, 1, 1, 0, 1};
constexpr LayerShape kDilated{kDepthwise, 5, 4, 2, 3, 2, 4, 2, 2, 1, 1, 2, 2, 0, 0, 2};

// The gradient as the definition has it, position by position.
double NaiveGradient(const LayerShape& s, const int8_t* x, int32_t zero, int32_t o, int32_t k,
                     const float* dy) {
  const int32_t depth = s.kind == kDepthwise ? 1 : s.input_channels;
  const int32_t c = s.kind == kDepthwise ? o / s.depth_multiplier : k % depth;
  const int32_t fx = k / depth % s.filter_width;
  const int32_t fy = k / depth / s.filter_width;
  double sum = 0.0;
  for (int32_t p = 0; p < Positions(s); ++p) {
    const int32_t iy = p / s.output_width * s.stride_height - s.pad_top + fy * s.dilation_height;
    const int32_t ix = p % s.output_width * s.stride_width - s.pad_left + fx * s.dilation_width;
    if (iy < 0 || ix < 0 || iy >= s.input_height || ix >= s.input_width) continue;
    sum += dy[p] * (x[(iy * s.input_width + ix) * s.input_channels + c] - zero);
  }
  return sum;
}

// A node op on the convolution above, with eval tensors and a context of its own.
class ConvNode {
 public:
  // closed_form: all outputs of a channel are averaged to a feature; else perturbed.
  explicit ConvNode(bool accumulate, bool bias_only = false, bool closed_form = false) {
    FillCodes(x_, sizeof(x_), 21);
    FillCodes(y, sizeof(y), 22);
    FillCodes(initial_, sizeof(initial_), 23);
    std::memcpy(w, initial_, sizeof(w));
    options_.head.magic = kNodeOptionsMagic;
    options_.head.version = kOptionsVersion;
    options_.head.shape = kConv;
    options_.head.input_zero_point = -3;
    options_.head.activation_min = -100;
    options_.head.activation_max = 127;
    options_.head.headroom = 4;
    options_.head.bias_headroom = 1 << 20;
    options_.head.inverse_output_scale = 20.0f;
    options_.head.channels = 1;
    options_.factors[0] = 4.0f;
    options_.factors[1] = 5000.0f;
    Set(0, session_, abi::kInt32, static_cast<int>(sizeof(session_) / 4));
    Set(1, x_, abi::kInt8, sizeof(x_));
    Set(2, y, abi::kInt8, sizeof(y));
    Set(3, w, abi::kInt8, sizeof(w));
    Set(4, initial_, abi::kInt8, sizeof(initial_));
    Set(5, b, abi::kInt32, 3);
    Set(6, initial_bias_, abi::kInt32, 3);
    Set(8, accumulator_, abi::kFloat32, bias_only ? 3 : 57);
    Set(7, feature_gradient, abi::kFloat32, 3);
    Set(9, &report, abi::kInt32, kReportWords);
    const int inputs[10] = {0, 1, 2, 3, 4, 5, 6, -1, accumulate ? 8 : -1, -1};
    std::memcpy(inputs_.data, inputs, sizeof(inputs));
    if (closed_form) {
      inputs_.data[7] = 7;
      inputs_.data[9] = 9;
      options_.head.window_height = kConv.output_height;
      options_.head.window_width = kConv.output_width;
      options_.head.pooled_width = 1;
    }
    if (bias_only) inputs_.data[1] = inputs_.data[3] = -1;  // neither x nor trained weights
    node_.inputs = reinterpret_cast<abi::IntArray*>(&inputs_);
    node_.outputs = reinterpret_cast<abi::IntArray*>(&outputs_);
    context_.impl = this;
    context_.ReportError = &Ignore;
    context_.AllocatePersistentBuffer = [](Context* c, size_t) -> void* { return Self(c)->state_; };
    context_.RequestScratchBufferInArena = [](Context*, size_t, int* i) {
      *i = 0;
      return kOk;
    };
    context_.GetScratchBuffer = [](Context* c, int) -> void* { return Self(c)->scratch_; };
    context_.GetEvalTensor = [](const Context* c, int i) { return &Self(c)->tensors_[i]; };
    node_.user_data =
        NodeOp().init(&context_, reinterpret_cast<const char*>(&options_), sizeof(options_));
    prepared = Prepare();
    session().magic = kSessionMagic;
    session().parameter_count = 0;
    NodeSettings(&session())[0] = NodeSetting{5, 1, 0.01f, {}};
  }

  // Squared length of the gradient of weights and biases in real units, from dL/dy of an output of
  // channel o that is not saturated, as the definition has it.
  double GradientEnergy(const float* dy_of_channel) const {
    double energy = 0.0;
    for (int32_t o = 0; o < 3; ++o) {
      float dy[6];
      double sum = 0.0;
      for (int32_t p = 0; p < 6; ++p) {
        dy[p] = y[3 * p + o] <= -100 || y[3 * p + o] >= 127 ? 0.0f : dy_of_channel[o];
        sum += dy[p];
      }
      const bool weights = inputs_.data[3] >= 0;
      for (int32_t k = 0; weights && k < FilterSize(kConv); ++k) {
        const double dw = NaiveGradient(kConv, x_, -3, o, k, dy);
        energy += dw * dw * 4.0 / 5000.0;  // the square of the input's scale
      }
      energy += sum * sum;
    }
    return energy;
  }

  Session& session() { return *reinterpret_cast<Session*>(session_); }
  bool Prepare() { return NodeOp().prepare(&context_, &node_) == kOk; }
  void WithoutReport() { inputs_.data[9] = -1; }
  bool Invoke() { return NodeOp().invoke(&context_, &node_) == kOk; }

  int8_t y[18];
  int8_t w[54];
  int32_t b[3] = {1, 2, 3};
  float feature_gradient[3] = {0.5f, -2.0f, 0.25f};
  Report report{};
  bool prepared = false;

 private:
  static void Ignore(Context*, const char*, ...) {}
  static ConvNode* Self(const Context* context) { return static_cast<ConvNode*>(context->impl); }

  void Set(int index, void* data, abi::Type type, int count) {
    shapes_[index] = {1, {count}};
    tensors_[index] = {data, &shapes_[index], type};
  }

  struct {
    NodeOptions head;
    float factors[2];
  } options_{};
  struct {
    int size = 10;
    int data[10];
  } inputs_;
  struct {
    int size = 0;
    int data[1];
  } outputs_;
  alignas(8) int32_t session_[kSessionWords + 4] = {};
  int8_t x_[40];
  int8_t initial_[54];
  int32_t initial_bias_[3] = {1, 2, 3};
  float accumulator_[57] = {};
  float scratch_[18 + 1];
  alignas(16) uint8_t state_[64];
  abi::IntArray shapes_[10];
  EvalTensor tensors_[10];
  Node node_{};
  Context context_{};
};

}  // namespace

TEST(FilterGradientIsTheDefinition) {
  for (const LayerShape& shape : {kConv, kDilated}) {
    int8_t x[40];
    FillCodes(x, 40, 11);
    float dy[6];
    for (int32_t p = 0; p < 6; ++p) dy[p] = p == 3 ? 0.0f : Real(12, p, 1.0f);
    for (int32_t o = 0; o < shape.output_channels; ++o) {
      float dw[18];
      const auto slope = [&](int32_t row, int32_t column) { return dy[row * 2 + column]; };
      const float db = FilterGradient(shape, x, 5, o, slope, dw);
      float sum = 0.0f;
      for (float d : dy) sum += d;
      CHECK(std::fabs(db - sum) < 1e-6f);
      for (int32_t k = 0; k < FilterSize(shape); ++k) {
        CHECK(std::fabs(dw[k] - NaiveGradient(shape, x, 5, o, k, dy)) < 1e-3);
      }
    }
  }
}

TEST(SaturatedOutputsAreLeftAloneAndBlocksShareSigns) {
  int8_t y[4 * 4 * 2];
  FillCodes(y, sizeof(y), 31);
  y[5] = -50;
  y[6] = 127;
  int8_t clean[sizeof(y)];
  std::memcpy(clean, y, sizeof(y));
  const NodeMap map{4, 4, 2, 2, -50, 127};
  const uint32_t all = ~0u;
  PerturbNodes(y, map, &all, 3, 99);
  const float slope = 1.0f;
  const uint32_t key = 99;
  const NodeGradient gradient(clean, map, &key, &slope, 1);
  for (int32_t i = 0; i < static_cast<int32_t>(sizeof(y)); ++i) {
    const bool saturated = clean[i] <= -50 || clean[i] >= 127;
    const float g = gradient.At(i / 8, i / 2 % 4, i % 2);
    CHECK_EQ(g == 0.0f, saturated);
    if (saturated) CHECK_EQ(y[i], clean[i]);
    if (!saturated && clean[i] > -47 && clean[i] < 124) CHECK_EQ(y[i] - clean[i], g > 0 ? 3 : -3);
    if (!saturated) CHECK(std::fabs(std::fabs(g) - 0.25f) < 1e-7f);  // four outputs share a sign
  }
  CHECK_EQ(Digest(y, sizeof(y)), 2673658597u);
}

TEST(NodeOpPerturbsThenUpdates) {
  ConvNode node(false);
  CHECK(node.prepared);
  int8_t clean[18];
  std::memcpy(clean, node.y, sizeof(clean));
  CHECK(node.Invoke());  // nothing asked for
  CHECK_BYTES_EQ(node.y, clean, sizeof(clean));
  node.session().sign = 1;
  node.session().seed = 6;
  node.session().node_last = 1;
  CHECK(node.Invoke());
  CHECK(std::memcmp(node.y, clean, sizeof(clean)) != 0);
  CHECK_EQ(Digest(node.y, 18), 1264887242u);
  std::memcpy(node.y, clean, sizeof(clean));
  node.session().sign = 0;
  node.session().actions = kNodeUpdate;
  node.session().update_seed = 6;
  node.session().update_queries = 1;
  node.session().update_last = 1;
  node.session().node_rate = 1.0f;
  node.session().losses[0] = 0.8f;
  CHECK(node.Invoke());
  CHECK_BYTES_EQ(node.y, clean, sizeof(clean));
  CHECK_EQ(Digest(node.w, 54), 92757147u);
  CHECK_EQ(Digest(node.b, 3), 614227797u);
}

TEST(MaskedChannelsAreNeitherPerturbedNorUpdated) {
  ConvNode node(false);
  NodeSettings(&node.session())[0].mask = Mask{kRandomChannels, 0x3F00};
  int8_t clean[18], w[54];
  std::memcpy(clean, node.y, sizeof(clean));
  std::memcpy(w, node.w, sizeof(w));
  const int32_t b[3] = {node.b[0], node.b[1], node.b[2]};
  node.session().sign = 1;
  node.session().seed = 9;
  node.session().node_last = 1;
  CHECK(node.Invoke());
  bool perturbed[3] = {};
  for (int32_t i = 0; i < 18; ++i) perturbed[i % 3] |= node.y[i] != clean[i];
  const int32_t kept = perturbed[0] + perturbed[1] + perturbed[2];
  CHECK(kept == 1 || kept == 2);
  std::memcpy(node.y, clean, sizeof(clean));
  node.session().sign = 0;
  node.session().actions = kNodeUpdate;
  node.session().update_seed = 9;
  node.session().update_queries = 1;
  node.session().update_last = 1;
  node.session().node_rate = 1.0f;
  node.session().losses[0] = 0.8f;
  CHECK(node.Invoke());
  for (int32_t c = 0; c < 3; ++c) {
    const bool moved = std::memcmp(node.w + 18 * c, w + 18 * c, 18) != 0;
    CHECK_EQ(moved, perturbed[c]);
    CHECK_EQ(node.b[c] != b[c], perturbed[c]);
  }
}

TEST(BiasesAloneTakeTheStepsThatTheyTakeBesideWeights) {
  for (const bool accumulate : {false, true}) {
    ConvNode whole(accumulate), bias(accumulate, true);
    CHECK(whole.prepared && bias.prepared);
    int8_t w[54];
    std::memcpy(w, bias.w, sizeof(w));
    for (ConvNode* node : {&whole, &bias}) {
      node->session().actions = kNodeUpdate | kNodeApply;
      node->session().update_seed = 6;
      node->session().update_queries = 1;
      node->session().update_last = 1;
      node->session().node_rate = 1.0f;
      node->session().losses[0] = 0.8f;
      CHECK(node->Invoke());
    }
    CHECK_BYTES_EQ(bias.b, whole.b, sizeof(bias.b));
    CHECK_EQ(Digest(bias.b, 3), 614227797u);
    CHECK_BYTES_EQ(bias.w, w, sizeof(w));
    CHECK(std::memcmp(whole.w, w, sizeof(w)) != 0);
  }
}

TEST(AccumulatorWaitsForTheEndOfTheBatch) {
  ConvNode node(true);
  CHECK(node.prepared);
  int8_t before[54];
  std::memcpy(before, node.w, sizeof(before));
  node.session().actions = kNodeUpdate;
  node.session().update_queries = 1;
  node.session().update_last = 1;
  node.session().node_rate = 0.5f;
  node.session().losses[0] = 0.8f;
  CHECK(node.Invoke());
  CHECK_BYTES_EQ(node.w, before, sizeof(before));
  node.session().actions = kNodeUpdate | kNodeApply;
  CHECK(node.Invoke());
  CHECK(std::memcmp(node.w, before, sizeof(before)) != 0);
  CHECK_EQ(Digest(node.w, 54), 3633356606u);
}

TEST(WhatABrokenStepLeftIsForgotten) {
  ConvNode broken(true), fresh(true);
  CHECK(broken.prepared && fresh.prepared);
  for (ConvNode* node : {&broken, &fresh}) {
    node->session().update_queries = 1;
    node->session().update_last = 1;
    node->session().node_rate = 0.5f;
  }
  broken.session().actions = kNodeUpdate | kNodeBegin;
  broken.session().losses[0] = -0.6f;
  CHECK(broken.Invoke());
  for (ConvNode* node : {&broken, &fresh}) {
    node->session().losses[0] = 0.8f;
    node->session().actions = kNodeUpdate | kNodeBegin;
    CHECK(node->Invoke());
    node->session().actions = kNodeUpdate | kNodeApply;
    CHECK(node->Invoke());
  }
  CHECK_BYTES_EQ(broken.w, fresh.w, sizeof(fresh.w));
  CHECK_BYTES_EQ(broken.b, fresh.b, sizeof(fresh.b));
}

TEST(MeasuresTheGradientAndChangesNothing) {
  for (const bool closed_form : {false, true}) {
    for (const bool bias_only : {false, true}) {
      ConvNode node(false, bias_only, closed_form);
      CHECK(node.prepared);
      int8_t y[18], w[54];
      node.y[4] = -100;  // saturated
      std::memcpy(y, node.y, sizeof(y));
      std::memcpy(w, node.w, sizeof(w));
      const int32_t b[3] = {node.b[0], node.b[1], node.b[2]};
      const float unit[3] = {1.0f, 1.0f, 1.0f};
      float share[3];
      for (int32_t o = 0; o < 3; ++o) share[o] = node.feature_gradient[o] / 6.0f;
      // Of a node perturbed, what an output channel has on average.
      const double expected =
          closed_form ? node.GradientEnergy(share) : node.GradientEnergy(unit) / 3.0;
      float& energy = closed_form ? node.report.layer_energy : node.session().layer_energy;
      float& other = closed_form ? node.session().layer_energy : node.report.layer_energy;
      node.session().actions = kMeasure;
      CHECK(node.Invoke());  // not in the range
      CHECK_EQ(energy, 0.0f);
      node.session().node_last = 1;
      CHECK(node.Invoke());
      CHECK(expected > 0.0 && std::fabs(energy - expected) < 1e-5 * expected);
      const float once = energy;
      CHECK(node.Invoke());  // nodes are added up
      CHECK_EQ(energy, once + once);
      CHECK_EQ(other, 0.0f);
      CHECK_BYTES_EQ(node.y, y, sizeof(y));
      CHECK_BYTES_EQ(node.w, w, sizeof(w));
      CHECK_BYTES_EQ(node.b, b, sizeof(b));
    }
  }
}

TEST(TheEnergyIsTheSameOnEveryMachine) {
  float energies[2];
  for (const bool closed_form : {false, true}) {
    ConvNode node(false, false, closed_form);
    node.session().actions = kMeasure;
    node.session().node_last = 1;
    CHECK(node.Invoke());
    energies[closed_form] = closed_form ? node.report.layer_energy : node.session().layer_energy;
  }
  CHECK_EQ(Digest(energies, 2), 1624924105u);
}

TEST(AClosedFormWithoutAReportIsRefused) {
  ConvNode node(false, false, true);
  CHECK(node.prepared);
  node.WithoutReport();
  CHECK(!node.Prepare());
}

CHECK_MAIN()
