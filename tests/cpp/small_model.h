// SPDX-License-Identifier: Apache-2.0
//
// A patched model without TFLM: one fully connected layer between the genuine parameter op and the
// genuine loss op, which run on eval tensors and a context made here. It trains for real, in 12
// weights. If asked for, another layer of the same kind is in front of it, which the genuine node
// op trains in closed form.
#ifndef TFLM_ZO_TESTS_SMALL_MODEL_H_
#define TFLM_ZO_TESTS_SMALL_MODEL_H_

#include <cstdint>
#include <cstring>

#include "app/model_runtime.h"
#include "loss_op.h"
#include "momentum.h"
#include "node_op.h"
#include "op_options.h"
#include "parameter_op.h"
#include "parameter_state.h"
#include "session.h"

class SmallModel final : public tflm_zo::ModelRuntime {
 public:
  static constexpr int kFeatures = 4;
  static constexpr int kClasses = 3;
  static constexpr int kWeightCount = kFeatures * kClasses;
  static constexpr int kParameters = 3;  // weights, bias, residual

  // Real units of a code of the model's input, and of the head's (the features).
  static constexpr float kInputScale = 0.02f;
  static constexpr float kFeatureScale = 0.01f;

  explicit SmallModel(bool with_layer = false) : has_layer_(with_layer) {
    for (int i = 0; i < kWeightCount; ++i) {
      initial_weights_[i] = static_cast<int8_t>((i * 37) % 101 - 50);
    }
    initial_weights_[5] = 127;  // no headroom: never perturbed
    for (int j = 0; j < kClasses; ++j) initial_bias_[j] = 100 * j - 90;
    for (int i = 0; i < kFeatures * kFeatures; ++i) {
      initial_layer_[i] = static_cast<int8_t>(i % (kFeatures + 1) == 0 ? 60 : (i * 29) % 41 - 20);
    }
    std::memcpy(layer_, initial_layer_, sizeof(layer_));
    parameter_options_.head.node_count = has_layer_ ? 1 : 0;
    Describe();
    context_.impl = this;
    context_.ReportError = &Ignore;
    context_.AllocatePersistentBuffer = [](tflm_zo::Context* context, size_t bytes) -> void* {
      return static_cast<SmallModel*>(context->impl)->Allocate(bytes);
    };
    context_.RequestScratchBufferInArena = [](tflm_zo::Context*, size_t, int* index) {
      *index = 0;
      return tflm_zo::kOk;
    };
    context_.GetScratchBuffer = [](tflm_zo::Context* context, int) -> void* {
      return static_cast<SmallModel*>(context->impl)->scratch_;
    };
    context_.GetEvalTensor = [](const tflm_zo::Context* context, int index) {
      return &static_cast<SmallModel*>(context->impl)->tensors_[index];
    };
    Prepare(tflm_zo::ParameterOp(), &parameter_options_, sizeof(parameter_options_),
            &parameter_node_);
    Prepare(tflm_zo::LossOp(), &loss_options_, sizeof(loss_options_), &loss_node_);
    if (has_layer_) {
      Prepare(tflm_zo::NodeOp(), &layer_options_, sizeof(layer_options_), &layer_node_);
    }
  }

  SmallModel(const SmallModel&) = delete;
  SmallModel& operator=(const SmallModel&) = delete;

  bool prepared() const { return prepared_; }

  // What TFLM does when it allocates the tensors again.
  void PowerCycle() {
    std::memset(session_, 0, sizeof(session_));
    std::memset(weights_, 0x55, sizeof(weights_));
    std::memset(bias_, 0x55, sizeof(bias_));
    std::memset(residual_, 0x55, sizeof(residual_));
    std::memset(moments_, 0x55, sizeof(moments_));
  }

  tflm_zo::TensorMemory Input(int index) override {
    switch (index) {
      case tflm_zo::kSampleInput:
        return {input_, missing_input ? 0u : static_cast<uint32_t>(sizeof(input_)), true};
      case tflm_zo::kCommandInputTensor:
        return {missing_input ? nullptr : command_, sizeof(command_), false};
      default:
        return {&target_, sizeof(target_), false};
    }
  }

  tflm_zo::TensorMemory Output(int index) override {
    if (index == tflm_zo::kResultOutput) return {logits_, sizeof(logits_), true};
    return {report_, sizeof(report_), false};
  }

  bool Invoke() override {
    invocations += 1;
    if (tflm_zo::ParameterOp().invoke(&context_, &parameter_node_) != tflm_zo::kOk) return false;
    for (int i = 0; has_layer_ && i < kFeatures; ++i) {
      features_[i] = Output(layer_ + i * kFeatures, input_, layer_bias_[i]);
    }
    const int8_t* features = has_layer_ ? features_ : input_;
    for (int j = 0; j < kClasses; ++j) {
      logits_[j] = Output(weights_ + j * kFeatures, features, bias_[j]);
    }
    if (tflm_zo::LossOp().invoke(&context_, &loss_node_) != tflm_zo::kOk) return false;
    return !has_layer_ || tflm_zo::NodeOp().invoke(&context_, &layer_node_) == tflm_zo::kOk;
  }

  // All that training changes, for comparisons.
  static constexpr uint32_t kStateBytes = kWeightCount * 2 + kClasses * 4 + 2 * kClasses * 4;
  void CopyState(uint8_t* to) const {
    std::memcpy(to, weights_, sizeof(weights_));
    std::memcpy(to + sizeof(weights_), residual_, sizeof(residual_));
    std::memcpy(to + 2 * sizeof(weights_), bias_, sizeof(bias_));
    std::memcpy(to + 2 * sizeof(weights_) + sizeof(bias_), moments_, sizeof(moments_));
  }

  const int8_t* initial_weights() const { return initial_weights_; }
  const int8_t* weights() const { return weights_; }
  const int32_t* bias() const { return bias_; }
  // Of the layer in front, and the features that it has made.
  static constexpr uint32_t kLayerBytes = kFeatures * kFeatures + 4 * kFeatures;
  void CopyLayer(uint8_t* to) const {
    std::memcpy(to, layer_, sizeof(layer_));
    std::memcpy(to + sizeof(layer_), layer_bias_, sizeof(layer_bias_));
  }
  const int8_t* features() const { return features_; }

  uint32_t invocations = 0;
  bool missing_input = false;

 private:
  enum Tensor {
    kCommand,
    kSession,
    kWeights,
    kInitialWeights,
    kBias,
    kInitialBias,
    kResidual,
    kMoments,
    kInput,
    kLogits,
    kTarget,
    kReport,
    kFeatureTensor,
    kLayer,
    kInitialLayer,
    kLayerBias,
    kInitialLayerBias,
    kFeatureGradient,
    kTensorCount
  };

  struct ParameterTable {
    tflm_zo::ParameterOptions head;
    tflm_zo::ParameterEntry entries[kParameters];
    float factors[2];
  };
  struct LossTable {
    tflm_zo::LossOptions head;
    float accumulator_scales[kClasses];
    float weight_factors[kClasses];
  };
  struct LayerTable {
    tflm_zo::NodeOptions head;
    float factors[2];
  };
  struct Indices {
    int size;
    int data[10];
  };

  static void Ignore(tflm_zo::Context*, const char*, ...) {}

  static int8_t Output(const int8_t* weights, const int8_t* x, int32_t sum) {
    for (int i = 0; i < kFeatures; ++i) sum += weights[i] * x[i];
    const int32_t code = sum / 64;
    return static_cast<int8_t>(code < -128 ? -128 : code > 127 ? 127 : code);
  }

  void Describe() {
    using tflm_zo::abi::kFloat32;
    using tflm_zo::abi::kInt32;
    using tflm_zo::abi::kInt8;
    Set(kCommand, command_, kInt32, tflm_zo::kCommandWords);
    Set(kSession, session_, kInt32, has_layer_ ? kSessionWords : kSessionWords - kNodeWords);
    Set(kWeights, weights_, kInt8, kWeightCount);
    Set(kInitialWeights, initial_weights_, kInt8, kWeightCount);
    Set(kBias, bias_, kInt32, kClasses);
    Set(kInitialBias, initial_bias_, kInt32, kClasses);
    Set(kResidual, residual_, kInt8, kWeightCount);
    Set(kMoments, moments_, kFloat32, tflm_zo::Momentum::Words(kClasses));
    Set(kInput, input_, kInt8, kFeatures);
    Set(kLogits, logits_, kInt8, kClasses);
    Set(kTarget, &target_, kInt32, 1);
    Set(kReport, report_, kInt32, tflm_zo::kReportWords);
    Set(kFeatureTensor, features_, kInt8, kFeatures);
    Set(kLayer, layer_, kInt8, kFeatures * kFeatures);
    Set(kInitialLayer, initial_layer_, kInt8, kFeatures * kFeatures);
    Set(kLayerBias, layer_bias_, kInt32, kFeatures);
    Set(kInitialLayerBias, initial_layer_bias_, kInt32, kFeatures);
    Set(kFeatureGradient, feature_gradient_, kFloat32, kFeatures);
    if (has_layer_) {
      loss_inputs_.data[3] = kFeatureTensor;
      loss_outputs_.size = 2;
    }
    layer_node_.inputs = Array(&layer_inputs_);
    layer_node_.outputs = Array(&no_outputs_);
    parameter_node_.inputs = Array(&parameter_inputs_);
    parameter_node_.outputs = Array(&no_outputs_);
    loss_node_.inputs = Array(&loss_inputs_);
    loss_node_.outputs = Array(&loss_outputs_);
  }

  void Set(Tensor tensor, void* data, tflm_zo::abi::Type type, int count) {
    shapes_[tensor] = {1, {count}};
    tensors_[tensor] = {data, &shapes_[tensor], type};
  }

  static tflm_zo::abi::IntArray* Array(Indices* indices) {
    return reinterpret_cast<tflm_zo::abi::IntArray*>(indices);
  }

  void Prepare(const tflm_zo::Registration& op, const void* options, size_t bytes,
               tflm_zo::Node* node) {
    node->user_data = op.init(&context_, static_cast<const char*>(options), bytes);
    prepared_ = prepared_ && op.prepare(&context_, node) == tflm_zo::kOk;
  }

  void* Allocate(size_t bytes) {
    void* memory = persistent_ + allocated_;
    allocated_ += (bytes + 15) / 16 * 16;
    return allocated_ <= sizeof(persistent_) ? memory : nullptr;
  }

  static constexpr int kNodeWords = 4;
  static constexpr int kSessionWords = tflm_zo::kSessionWords + 3 * kParameters + kNodeWords;

  bool has_layer_;

  int8_t initial_weights_[kWeightCount] = {};
  int32_t initial_bias_[kClasses] = {};
  int32_t command_[tflm_zo::kCommandWords] = {};
  alignas(8) int32_t session_[kSessionWords] = {};
  int8_t weights_[kWeightCount] = {};
  int32_t bias_[kClasses] = {};
  int8_t residual_[kWeightCount] = {};
  float moments_[2 * kClasses] = {};
  int8_t input_[kFeatures] = {};
  int8_t logits_[kClasses] = {};
  int32_t target_ = 0;
  int32_t report_[tflm_zo::kReportWords] = {};
  int8_t features_[kFeatures] = {};
  int8_t layer_[kFeatures * kFeatures] = {};
  int8_t initial_layer_[kFeatures * kFeatures] = {};
  int32_t layer_bias_[kFeatures] = {};
  int32_t initial_layer_bias_[kFeatures] = {};
  float feature_gradient_[kFeatures] = {};

  // kind, layer, variable, initial, channels, stride, headroom, exact, moments, factor offset
  // and count
  ParameterTable parameter_options_ = {
      {tflm_zo::kParameterOptionsMagic, tflm_zo::kOptionsVersion, kParameters, 0, 2, 0, 0, 0, 0, 0},
      {{tflm_zo::kWeights, 0, 2, 3, 1, 1, 4, 1, -1, 0, 1},
       {tflm_zo::kBias, 0, 4, 5, 1, 1, 1000, 1, 7, 1, 1},
       {tflm_zo::kResidual, 0, 6, -1, 1, 1, 0, 1, -1, 0, 1}},
      {400.0f, 40000.0f}};
  LossTable loss_options_ = {
      {tflm_zo::kLossOptionsMagic, tflm_zo::kOptionsVersion, tflm_zo::kCrossEntropy, kClasses,
       0.05f, 0, 1, kFeatures, 0, kFeatureScale, 4, 1, 1, 0},
      {0.0005f, 0.0005f, 0.0005f},
      {0.2f, 0.2f, 0.2f}};
  // An output code is 64 codes of the accumulator: the weights' scale is 1 / 128.
  LayerTable layer_options_ = {
      {tflm_zo::kNodeOptionsMagic,
       tflm_zo::kOptionsVersion,
       0,
       {tflm_zo::kFullyConnected, 1, 1, kFeatures, 1, 1, kFeatures, 1, 1, 1, 1, 1, 1, 0, 0, 1},
       0,
       -128,
       127,
       4,
       1 << 20,
       1.0f / kFeatureScale,
       1,
       1,
       1,
       1},
      {128.0f * kInputScale, 128.0f / kInputScale}};
  Indices parameter_inputs_ = {
      8, {kCommand, kSession, kWeights, kInitialWeights, kBias, kInitialBias, kResidual, kMoments}};
  Indices no_outputs_ = {0, {}};
  Indices loss_inputs_ = {7, {kLogits, kTarget, kSession, kInput, kWeights, kBias, kResidual}};
  Indices loss_outputs_ = {1, {kReport, kFeatureGradient}};
  Indices layer_inputs_ = {10,
                           {kSession, kInput, kFeatureTensor, kLayer, kInitialLayer, kLayerBias,
                            kInitialLayerBias, kFeatureGradient, -1, kReport}};

  tflm_zo::Context context_{};
  tflm_zo::Node parameter_node_{};
  tflm_zo::Node loss_node_{};
  tflm_zo::Node layer_node_{};
  tflm_zo::abi::IntArray shapes_[kTensorCount] = {};
  tflm_zo::EvalTensor tensors_[kTensorCount] = {};
  alignas(16) uint8_t persistent_[256] = {};
  size_t allocated_ = 0;
  float scratch_[kFeatures + 1] = {};  // the most that an op asks for
  bool prepared_ = true;
};

// Frozen layers in front of a SmallModel: feature i is some value of the sample, or its negative.
class SmallFrozenLayers final : public tflm_zo::ModelRuntime {
 public:
  static constexpr int kMostInputs = 2 * SmallModel::kFeatures;

  explicit SmallFrozenLayers(int inputs) : inputs_(inputs) {}

  static int8_t Feature(const int8_t* sample, int inputs, int i) {
    if (inputs >= SmallModel::kFeatures) return sample[i * (inputs / SmallModel::kFeatures)];
    return static_cast<int8_t>(i < inputs ? sample[i] : -sample[i % inputs]);
  }

  tflm_zo::TensorMemory Input(int index) override {
    return {index == 0 ? input_ : nullptr, static_cast<uint32_t>(inputs_), true};
  }

  tflm_zo::TensorMemory Output(int index) override {
    return {index == 0 ? features_ : nullptr, features, true};
  }

  bool Invoke() override {
    invocations += 1;
    for (int i = 0; i < SmallModel::kFeatures; ++i) features_[i] = Feature(input_, inputs_, i);
    std::memset(input_, 0x55, sizeof(input_));
    return !fails;
  }

  uint32_t invocations = 0;
  uint32_t features = SmallModel::kFeatures;
  bool fails = false;

 private:
  int inputs_;
  int8_t input_[kMostInputs] = {};
  int8_t features_[SmallModel::kFeatures] = {};
};

#endif  // TFLM_ZO_TESTS_SMALL_MODEL_H_
