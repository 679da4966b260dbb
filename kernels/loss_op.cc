// SPDX-License-Identifier: Apache-2.0
#include "loss_op.h"

#include <cmath>
#include <cstring>

#include "head.h"
#include "loss.h"
#include "op_options.h"
#include "perturbation.h"
#include "random.h"
#include "session.h"
#include "tensor_check.h"

namespace tflm_zo {
namespace {

struct LossState {
  const LossOptions* options;
  int logits_scratch;  // float[positions * outputs]
};
static_assert(sizeof(LossState) == kLossStateWords * sizeof(void*), "see loss_op.h");

void* Init(Context* context, const char* buffer, size_t length) {
  auto* state = static_cast<LossState*>(AllocatePersistent(context, sizeof(LossState)));
  if (state == nullptr) return nullptr;
  const auto* options = reinterpret_cast<const LossOptions*>(buffer);
  const bool valid = CanHold<LossOptions>(buffer, length) && options->magic == kLossOptionsMagic &&
                     options->version == kOptionsVersion && options->outputs > 0 &&
                     options->positions > 0 && options->features >= 0 &&
                     length >= OptionsBytes(options);
  state->options = valid ? options : nullptr;
  state->logits_scratch = -1;
  return state;
}

// Number of logits, of all positions.
int32_t LogitCount(const LossOptions& options) { return options.positions * options.outputs; }

// Whether the tensors and options of the head fit together; features > 0.
bool HeadMatches(Context* context, const Node* node, const LossOptions& options) {
  const EvalTensor* bias = InputTensor(context, node, kLossHeadBias);
  const EvalTensor* residual = InputTensor(context, node, kLossResidual);
  const EvalTensor* gradient = OutputTensor(context, node, kLossFeatureGradient);
  const int32_t weights = Product(options.features, options.outputs);
  const int32_t features = Product(options.features, options.positions);
  return IsInt8Of(InputTensor(context, node, kLossFeatures), features) &&
         IsInt8Of(InputTensor(context, node, kLossHeadWeights), weights) &&
         (bias == nullptr ? options.trains_bias == 0 : IsInt32Of(bias, options.outputs)) &&
         (residual == nullptr || IsInt8Of(residual, weights)) &&
         (gradient == nullptr || IsFloatOf(gradient, features)) &&
         IsZeroPoint(options.feature_zero_point) && Within(options.headroom, 0, kMaxWeight) &&
         NoneNegative(&options.feature_scale, 1) &&
         // Both tables.
         NoneNegative(AccumulatorScales(&options), Product(2, options.outputs));
}

bool TensorsMatch(Context* context, const Node* node, const LossOptions& options) {
  const EvalTensor* target = InputTensor(context, node, kLossTarget);
  if (!Within(options.kind, kCrossEntropy, kEntropy) || !IsZeroPoint(options.zero_point) ||
      !NoneNegative(&options.scale, 1) || !InputsDiffer(node) ||
      (options.positions != 1 && options.kind != kCrossEntropy) ||
      !IsInt8Of(InputTensor(context, node, kLossLogits),
                Product(options.positions, options.outputs)) ||
      SettingWords(InputTensor(context, node, kLossSession)) < 0 ||
      !IsInt32Of(OutputTensor(context, node, kLossReport), kReportWords)) {
    return false;
  }
  if (options.kind == kMeanSquaredError ? !IsInt8Of(target, options.outputs)
                                        : !IsInt32Of(target, options.positions)) {
    return false;
  }
  if (options.kind == kEntropy &&
      !IsFloatOf(InputTensor(context, node, kLossMeanPrediction), options.outputs)) {
    return false;
  }
  if (options.features != 0) return HeadMatches(context, node, options);
  return options.high_resolution == 0 && options.trains_bias == 0 &&
         InputTensor(context, node, kLossResidual) == nullptr &&
         OutputTensor(context, node, kLossFeatureGradient) == nullptr;
}

Status Prepare(Context* context, Node* node) {
  auto* state = static_cast<LossState*>(node->user_data);
  if (state == nullptr || state->options == nullptr ||
      !TensorsMatch(context, node, *state->options)) {
    TFLM_ZO_REPORT(context,
                   "%s: options do not match the tensors; patch the model again with this tflm-zo",
                   kLossOpName);
    return kError;
  }
  return RequestScratch(context, static_cast<size_t>(LogitCount(*state->options)) * sizeof(float),
                        &state->logits_scratch);
}

Head MakeHead(Context* context, const Node* node, const LossOptions& options) {
  const EvalTensor* bias = InputTensor(context, node, kLossHeadBias);
  const EvalTensor* residual = InputTensor(context, node, kLossResidual);
  Head head;
  head.weights = static_cast<int8_t*>(TensorData(InputTensor(context, node, kLossHeadWeights)));
  head.residual = residual == nullptr ? nullptr : static_cast<int8_t*>(TensorData(residual));
  head.bias = bias == nullptr ? nullptr : static_cast<int32_t*>(TensorData(bias));
  head.input = static_cast<const int8_t*>(TensorData(InputTensor(context, node, kLossFeatures)));
  head.outputs = options.outputs;
  head.features = options.features;
  head.input_zero_point = options.feature_zero_point;
  head.weight_limit = kMaxWeight - options.headroom;
  head.trains_bias = options.trains_bias != 0;
  head.accumulator_scales = AccumulatorScales(&options);
  head.weight_factors = WeightFactors(&options);
  return head;
}

// The head at one position of its map.
Head AtPosition(const Head& head, int32_t position) {
  Head there = head;
  there.input += position * head.features;
  return there;
}

void Dequantize(const int8_t* codes, const LossOptions& options, float* values) {
  for (int32_t j = 0; j < LogitCount(options); ++j) {
    values[j] = static_cast<float>(codes[j] - options.zero_point) * options.scale;
  }
}

// The class of a vector of logits; of a map, that of its first position.
int32_t Prediction(const int8_t* codes, const LossOptions& options) {
  if (options.outputs == 1) return codes[0] > options.zero_point ? 1 : 0;
  int32_t best = 0;
  for (int32_t j = 1; j < options.outputs; ++j) {
    if (codes[j] > codes[best]) best = j;
  }
  return best;
}

// What the loss compares the outputs with: the member that belongs to the kind of loss.
struct Target {
  const int32_t* classes;  // kCrossEntropy: [positions]
  const int8_t* codes;     // kMeanSquaredError: [outputs]
  float* mean;             // kEntropy: the mean prediction, nullptr with other kinds
};

float Loss(const LossOptions& options, const Target& target, const float* outputs) {
  switch (options.kind) {
    case kCrossEntropy: {
      // Of a map the mean over its positions, each of which has a class.
      float sum = 0.0f;
      for (int32_t p = 0; p < options.positions; ++p) {
        sum += CrossEntropy(outputs + p * options.outputs, options.outputs, target.classes[p]);
      }
      return sum / static_cast<float>(options.positions);
    }
    case kEntropy:
      return Entropy(outputs, options.outputs, target.mean);
    default:
      return MeanSquaredError(outputs, target.codes, options.outputs, options.scale,
                              options.zero_point);
  }
}

// Replaces `outputs` by dL/doutputs.
void LossGradient(const LossOptions& options, const Target& target, float* outputs) {
  switch (options.kind) {
    case kCrossEntropy:
      for (int32_t p = 0; p < options.positions; ++p) {
        float* logits = outputs + p * options.outputs;
        CrossEntropyGradient(logits, options.outputs, target.classes[p]);
        for (int32_t j = 0; j < options.outputs; ++j) {
          logits[j] /= static_cast<float>(options.positions);
        }
      }
      break;
    case kEntropy:
      EntropyGradient(outputs, options.outputs, target.mean);
      break;
    default:
      MeanSquaredErrorGradient(outputs, target.codes, options.outputs, options.scale,
                               options.zero_point);
  }
}

float SquaredLength(const float* values, int32_t count) {
  float sum = 0.0f;
  for (int32_t j = 0; j < count; ++j) sum += values[j] * values[j];
  return sum;
}

// One pass whose loss, or what follows from it, the session asks for.
class LossPass {
 public:
  LossPass(Context* context, const Node* node, const LossState& state, const int8_t* codes)
      : context_(context),
        node_(node),
        options_(*state.options),
        session_(static_cast<Session*>(TensorData(InputTensor(context, node, kLossSession)))),
        codes_(codes),
        values_(static_cast<float*>(ScratchBuffer(context, state.logits_scratch))) {
    if (options_.features > 0) head_ = MakeHead(context, node, options_);
    const EvalTensor* gradient = OutputTensor(context, node, kLossFeatureGradient);
    if (gradient != nullptr) feature_gradient_ = static_cast<float*>(TensorData(gradient));
  }

  Status Run(Report* report) {
    if (!ReadTarget()) return kError;
    if (options_.high_resolution) {
      for (int32_t p = 0; p < options_.positions; ++p) {
        HighResolutionLogits(AtPosition(head_, p), values_ + p * options_.outputs);
      }
    } else {
      Dequantize(codes_, options_, values_);
    }
    report->loss = Loss(options_, target_, values_);
    if (options_.features > 0) {
      report->feature_energy = MeanFeatureEnergy();
    }
    AddToLossTable(report->loss);
    FollowMeanPrediction();
    if (session_->actions & kMeasure) Measure(report);
    return (session_->actions & kHeadUpdate) != 0 ? UpdateHead() : kOk;
  }

 private:
  float MeanFeatureEnergy() const {
    float sum = 0.0f;
    for (int32_t p = 0; p < options_.positions; ++p) {
      sum += FeatureEnergy(AtPosition(head_, p), options_.feature_scale);
    }
    return sum / static_cast<float>(options_.positions);
  }

  // Fills feature_gradient_ from dL/dlogits.
  void SetFeatureGradient() {
    for (int32_t p = 0; p < options_.positions; ++p) {
      FeatureGradient(head_, values_ + p * options_.outputs, options_.feature_scale,
                      feature_gradient_ + p * options_.features);
    }
  }

  // Fills target_; false if it is not a class of this model, or one of them is not.
  bool ReadTarget() {
    const void* data = TensorData(InputTensor(context_, node_, kLossTarget));
    target_ = Target{static_cast<const int32_t*>(data), static_cast<const int8_t*>(data), nullptr};
    if (options_.kind == kEntropy) {
      target_.mean =
          static_cast<float*>(TensorData(InputTensor(context_, node_, kLossMeanPrediction)));
    }
    if (options_.kind != kCrossEntropy) return true;
    const int32_t classes = options_.outputs == 1 ? 2 : options_.outputs;
    for (int32_t p = 0; p < options_.positions; ++p) {
      const int32_t index = target_.classes[p];
      if (index >= 0 && index < classes) continue;
      TFLM_ZO_REPORT(context_, "%s: class index %d is not in 0..%d", kLossOpName,
                     static_cast<int>(index), static_cast<int>(classes - 1));
      return false;
    }
    return true;
  }

  void AddToLossTable(float loss) {
    if ((session_->actions & kAccumulate) == 0) return;
    if (session_->sign == 0) {
      session_->base_loss += loss;
    } else {
      session_->losses[session_->query] += session_->sign > 0 ? loss : -loss;
    }
  }

  // Moves the mean prediction in training passes, but not in those with a positive sign: the pass
  // with the negative sign follows, and both losses must be measured against the same mean.
  void FollowMeanPrediction() {
    const bool trains = (session_->actions & (kAccumulate | kHeadUpdate)) != 0;
    if (target_.mean != nullptr && trains && session_->sign <= 0) {
      UpdateMeanPrediction(values_, options_.outputs, target_.mean);
    }
  }

  // Leaves a gradient of length 1 for the node ops behind this one; see Report. A map's loss is a
  // mean, so its curvature is smaller by the number of positions. What is reported takes that into
  // account: rates follow from it as from that of a vector.
  void Measure(Report* report) {
    LossGradient(options_, target_, values_);
    report->gradient_energy =
        SquaredLength(values_, LogitCount(options_)) * static_cast<float>(options_.positions);
    report->layer_energy = session_->layer_energy;
    if (feature_gradient_ == nullptr) return;
    const float length = std::sqrt(report->gradient_energy);
    for (int32_t j = 0; j < LogitCount(options_); ++j) {
      values_[j] = length > 0.0f ? values_[j] / length : 0.0f;
    }
    SetFeatureGradient();
  }

  Status UpdateHead() {
    const bool trains_head =
        options_.trains_bias != 0 || InputTensor(context_, node_, kLossResidual) != nullptr;
    if (options_.features == 0 || (!trains_head && feature_gradient_ == nullptr)) {
      TFLM_ZO_REPORT(context_, "%s: this model has no layer to train exactly", kLossOpName);
      return kError;
    }
    LossGradient(options_, target_, values_);
    if (feature_gradient_ != nullptr) SetFeatureGradient();
    for (int32_t p = 0; trains_head && p < options_.positions; ++p) {
      HeadUpdate(
          AtPosition(head_, p), values_ + p * options_.outputs, session_->head_rate,
          StreamKey(session_->head_seed, Stream::kHeadRounding, static_cast<uint32_t>(p), 0));
    }
    return kOk;
  }

  Context* context_;
  const Node* node_;
  const LossOptions& options_;
  Session* session_;
  const int8_t* codes_;                // the model's logits, of all positions
  float* values_;                      // the real logits, then dL/dlogits
  Head head_{};                        // if options_.features > 0
  float* feature_gradient_ = nullptr;  // dL/dfeatures, if a layer before the head is trained by it
  Target target_{};
};

Status Invoke(Context* context, Node* node) {
  const auto& state = *static_cast<const LossState*>(node->user_data);
  const auto* session =
      static_cast<const Session*>(TensorData(InputTensor(context, node, kLossSession)));
  if (!IsSound(*session, SettingWords(InputTensor(context, node, kLossSession)), 0)) {
    TFLM_ZO_REPORT(context, "%s: no session has begun", kLossOpName);
    return kError;
  }
  const auto* codes =
      static_cast<const int8_t*>(TensorData(InputTensor(context, node, kLossLogits)));

  Report report{};
  report.magic = kReportMagic;
  report.prediction = Prediction(codes, *state.options);
  std::memcpy(report.state_address, session->state_address, sizeof(report.state_address));
  if (session->actions & (kLoss | kHeadUpdate | kMeasure)) {
    const Status status = LossPass(context, node, state, codes).Run(&report);
    if (status != kOk) return status;
  }
  std::memcpy(TensorData(OutputTensor(context, node, kLossReport)), &report, sizeof(report));
  return kOk;
}

}  // namespace

Registration LossOp() { return MakeRegistration(Init, Prepare, Invoke); }

}  // namespace tflm_zo
