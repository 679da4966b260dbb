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

namespace tflm_zo {
namespace {

enum Input {
  kLogits,
  kTarget,
  kSessionInput,
  kFeatures,
  kHeadWeights,
  kHeadBias,
  kHeadResidual,
  kMeanPrediction
};

constexpr int kFeatureGradientOutput = 1;

struct LossState {
  const LossOptions* options;
  int logits_scratch;  // float[outputs]
};

void* Init(Context* context, const char* buffer, size_t length) {
  auto* state = static_cast<LossState*>(AllocatePersistent(context, sizeof(LossState)));
  if (state == nullptr) return nullptr;
  const auto* options = reinterpret_cast<const LossOptions*>(buffer);
  const bool valid = buffer != nullptr && length >= sizeof(LossOptions) &&
                     options->magic == kLossOptionsMagic && options->version == kOptionsVersion &&
                     options->outputs > 0 && length >= OptionsBytes(options);
  state->options = valid ? options : nullptr;
  state->logits_scratch = -1;
  return state;
}

bool TensorsMatch(Context* context, const Node* node, const LossOptions& options) {
  const EvalTensor* logits = InputTensor(context, node, kLogits);
  const EvalTensor* target = InputTensor(context, node, kTarget);
  const EvalTensor* session = InputTensor(context, node, kSessionInput);
  const EvalTensor* report = OutputTensor(context, node, 0);
  if (logits == nullptr || target == nullptr || session == nullptr || report == nullptr)
    return false;
  if (!IsInt8(logits) || ElementCount(logits) != options.outputs) return false;
  if (ElementCount(report) != kReportWords || ElementCount(session) < kSessionWords) return false;
  if (options.kind != kMeanSquaredError) {
    if (!IsInt32(target) || ElementCount(target) != 1) return false;
  } else if (!IsInt8(target) || ElementCount(target) != options.outputs) {
    return false;
  }
  const EvalTensor* mean = InputTensor(context, node, kMeanPrediction);
  if (options.kind == kEntropy && (mean == nullptr || ElementCount(mean) != options.outputs))
    return false;
  if (options.features == 0) return true;
  const EvalTensor* features = InputTensor(context, node, kFeatures);
  const EvalTensor* weights = InputTensor(context, node, kHeadWeights);
  if (options.trains_bias != 0 && InputTensor(context, node, kHeadBias) == nullptr) return false;
  return features != nullptr && weights != nullptr && IsInt8(features) && IsInt8(weights) &&
         ElementCount(features) == options.features &&
         ElementCount(weights) == options.features * options.outputs;
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
  return RequestScratch(context, static_cast<size_t>(state->options->outputs) * sizeof(float),
                        &state->logits_scratch);
}

Head MakeHead(Context* context, const Node* node, const LossOptions& options) {
  const EvalTensor* bias = InputTensor(context, node, kHeadBias);
  const EvalTensor* residual = InputTensor(context, node, kHeadResidual);
  Head head;
  head.weights = static_cast<int8_t*>(TensorData(InputTensor(context, node, kHeadWeights)));
  head.residual = residual == nullptr ? nullptr : static_cast<int8_t*>(TensorData(residual));
  head.bias = bias == nullptr ? nullptr : static_cast<int32_t*>(TensorData(bias));
  head.input = static_cast<const int8_t*>(TensorData(InputTensor(context, node, kFeatures)));
  head.outputs = options.outputs;
  head.features = options.features;
  head.input_zero_point = options.feature_zero_point;
  head.weight_limit = kMaxWeight - options.headroom;
  head.trains_bias = options.trains_bias != 0;
  head.accumulator_scales = AccumulatorScales(&options);
  head.weight_factors = WeightFactors(&options);
  return head;
}

void Dequantize(const int8_t* codes, const LossOptions& options, float* values) {
  for (int32_t j = 0; j < options.outputs; ++j) {
    values[j] = static_cast<float>(codes[j] - options.zero_point) * options.scale;
  }
}

int32_t Prediction(const int8_t* codes, const LossOptions& options) {
  if (options.outputs == 1) return codes[0] > options.zero_point ? 1 : 0;
  int32_t best = 0;
  for (int32_t j = 1; j < options.outputs; ++j) {
    if (codes[j] > codes[best]) best = j;
  }
  return best;
}

// What a pass is compared with; one of them, by the kind of loss.
struct Target {
  int32_t index;        // of the class
  const int8_t* codes;  // of the vector
  float* mean;          // mean prediction
};

float Loss(const LossOptions& options, const Target& target, const float* outputs) {
  switch (options.kind) {
    case kCrossEntropy:
      return CrossEntropy(outputs, options.outputs, target.index);
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
      CrossEntropyGradient(outputs, options.outputs, target.index);
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

Status Invoke(Context* context, Node* node) {
  const auto& state = *static_cast<const LossState*>(node->user_data);
  const LossOptions& options = *state.options;
  auto* session = static_cast<Session*>(TensorData(InputTensor(context, node, kSessionInput)));
  const auto* codes = static_cast<const int8_t*>(TensorData(InputTensor(context, node, kLogits)));

  Report report{};
  report.magic = kReportMagic;
  report.prediction = Prediction(codes, options);
  std::memcpy(report.state_address, session->state_address, sizeof(report.state_address));

  if (session->actions & (kLoss | kHeadUpdate | kMeasure)) {
    const void* target_data = TensorData(InputTensor(context, node, kTarget));
    Target target{0, static_cast<const int8_t*>(target_data), nullptr};
    if (options.kind == kCrossEntropy) {
      std::memcpy(&target.index, target_data, sizeof(target.index));
      const int32_t classes = options.outputs == 1 ? 2 : options.outputs;
      if (target.index < 0 || target.index >= classes) {
        TFLM_ZO_REPORT(context, "%s: class index %d is not in 0..%d", kLossOpName,
                       static_cast<int>(target.index), static_cast<int>(classes - 1));
        return kError;
      }
    } else if (options.kind == kEntropy) {
      target.mean = static_cast<float*>(TensorData(InputTensor(context, node, kMeanPrediction)));
    }
    auto* logits = static_cast<float*>(ScratchBuffer(context, state.logits_scratch));
    if (options.high_resolution) {
      HighResolutionLogits(MakeHead(context, node, options), logits);
    } else {
      Dequantize(codes, options, logits);
    }
    report.loss = Loss(options, target, logits);
    if (options.features > 0) {
      report.feature_energy =
          FeatureEnergy(MakeHead(context, node, options), options.feature_scale);
    }
    if (session->actions & kAccumulate) {
      if (session->sign == 0) {
        session->base_loss += report.loss;
      } else {
        session->losses[session->query] += session->sign > 0 ? report.loss : -report.loss;
      }
    }
    // A pass with a positive sign and its negative are to be judged by the same mean.
    const bool trains = (session->actions & (kAccumulate | kHeadUpdate)) != 0;
    if (target.mean != nullptr && trains && session->sign <= 0) {
      UpdateMeanPrediction(logits, options.outputs, target.mean);
    }
    const EvalTensor* feature_gradient = OutputTensor(context, node, kFeatureGradientOutput);
    if (session->actions & kMeasure) {
      LossGradient(options, target, logits);
      report.gradient_energy = SquaredLength(logits, options.outputs);
      report.layer_energy = session->layer_energy;
      if (feature_gradient != nullptr) {
        const float length = std::sqrt(report.gradient_energy);
        for (int32_t j = 0; j < options.outputs; ++j) {
          logits[j] = length > 0.0f ? logits[j] / length : 0.0f;
        }
        FeatureGradient(MakeHead(context, node, options), logits, options.feature_scale,
                        static_cast<float*>(TensorData(feature_gradient)));
      }
    }
    if (session->actions & kHeadUpdate) {
      const bool trains_head =
          options.trains_bias != 0 || InputTensor(context, node, kHeadResidual) != nullptr;
      if (options.features == 0 || (!trains_head && feature_gradient == nullptr)) {
        TFLM_ZO_REPORT(context, "%s: this model has no layer to train exactly", kLossOpName);
        return kError;
      }
      const Head head = MakeHead(context, node, options);
      LossGradient(options, target, logits);
      if (feature_gradient != nullptr) {
        FeatureGradient(head, logits, options.feature_scale,
                        static_cast<float*>(TensorData(feature_gradient)));
      }
      if (trains_head) {
        HeadUpdate(head, logits, session->head_rate,
                   StreamKey(session->head_seed, Stream::kHeadRounding, 0, 0));
      }
    }
  }
  std::memcpy(TensorData(OutputTensor(context, node, 0)), &report, sizeof(report));
  return kOk;
}

}  // namespace

Registration LossOp() { return MakeRegistration(Init, Prepare, Invoke); }

}  // namespace tflm_zo
