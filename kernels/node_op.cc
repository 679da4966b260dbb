// SPDX-License-Identifier: Apache-2.0
#include "node_op.h"

#include "node_perturbation.h"
#include "op_options.h"
#include "output_gradient.h"
#include "perturbation.h"
#include "random.h"
#include "session.h"
#include "tensor_check.h"
#include "weight_gradient.h"
#include "weight_step.h"

namespace tflm_zo {
namespace {

struct NodeState {
  const NodeOptions* options;
  // float[filter size]: gradient of one output channel's weights, if these are trained; then
  // uint32_t[ChannelWords]: a bit for each channel, whether the mask lets it take part.
  int scratch;
};
static_assert(sizeof(NodeState) == kNodeStateWords * sizeof(void*), "see node_op.h");

void* Init(Context* context, const char* buffer, size_t length) {
  auto* state = static_cast<NodeState*>(AllocatePersistent(context, sizeof(NodeState)));
  if (state == nullptr) return nullptr;
  const auto* options = reinterpret_cast<const NodeOptions*>(buffer);
  const bool valid = CanHold<NodeOptions>(buffer, length) && options->magic == kNodeOptionsMagic &&
                     options->version == kOptionsVersion && options->channels > 0 &&
                     length >= OptionsBytes(options);
  state->options = valid ? options : nullptr;
  return state;
}

// Whether a node trains weights, not only the bias.
bool TrainsWeights(const Node* node) { return node->inputs->data[kNodeWeights] >= 0; }

// Whether windows along one side of a layer fit its input: the last one begins within it, and no
// place in a window, padding included, is beyond what an int32 holds.
bool WindowsFit(int32_t inputs, int32_t outputs, int32_t filter, int32_t stride, int32_t dilation,
                int32_t pad) {
  if (stride < 1 || dilation < 1 || pad < 0) return false;
  const int64_t last = static_cast<int64_t>(outputs - 1) * stride;
  const int64_t reach = static_cast<int64_t>(filter - 1) * dilation;
  return last - pad < inputs && pad <= reach && last + reach <= INT32_MAX;
}

bool IsValid(const LayerShape& shape) {
  const bool depthwise = shape.kind == kDepthwise;
  return Within(shape.kind, kConvolution, kFullyConnected) &&
         WindowsFit(shape.input_height, shape.output_height, shape.filter_height,
                    shape.stride_height, shape.dilation_height, shape.pad_top) &&
         WindowsFit(shape.input_width, shape.output_width, shape.filter_width, shape.stride_width,
                    shape.dilation_width, shape.pad_left) &&
         (!depthwise ||
          Product(shape.input_channels, shape.depth_multiplier) == shape.output_channels);
}

// Whether every output of a layer in closed form has its feature in a gradient of `features`.
bool FeaturesMatch(const NodeOptions& options, int32_t features) {
  const LayerShape& shape = options.shape;
  if (Product(options.window_height, options.window_width) < 0) return false;
  const int32_t columns = (shape.output_width - 1) / options.window_width + 1;
  const int32_t rows = (shape.output_height - 1) / options.window_height + 1;
  const int32_t needed = Product(Product(rows, options.pooled_width), shape.output_channels);
  return columns <= options.pooled_width && needed > 0 && needed <= features;
}

bool GradientMatches(Context* context, const Node* node, const NodeOptions& options) {
  const EvalTensor* gradient = InputTensor(context, node, kNodeFeatureGradient);
  if (gradient == nullptr) return options.window_height == 0;
  const int32_t features = ElementCount(gradient);
  return IsFloatOf(gradient, features) && FeaturesMatch(options, features) &&
         IsInt32Of(InputTensor(context, node, kNodeReport), kReportWords);
}

bool ValuesMatch(Context* context, const Node* node, const NodeOptions& options) {
  const int32_t settings = SettingWords(InputTensor(context, node, kNodeSession));
  constexpr auto kWords = static_cast<int32_t>(sizeof(NodeSetting) / sizeof(int32_t));
  return Within(options.node, 0, settings / kWords - 1) && IsZeroPoint(options.input_zero_point) &&
         Within(options.headroom, 0, kMaxWeight) && options.bias_headroom >= 0 &&
         NoneNegative(&options.inverse_output_scale, 1) &&
         (options.channels == 1 || options.channels == options.shape.output_channels) &&
         // Both tables.
         NoneNegative(WeightFactors(&options), Product(2, options.channels));
}

bool TensorsMatch(Context* context, const Node* node, const NodeOptions& options) {
  const LayerShape& shape = options.shape;
  const int32_t channels = shape.output_channels;
  const int32_t filter = Product(Product(shape.filter_height, shape.filter_width),
                                 shape.kind == kDepthwise ? 1 : shape.input_channels);
  const int32_t weights = Product(filter, channels);
  const int32_t inputs =
      Product(Product(shape.input_height, shape.input_width), shape.input_channels);
  const int32_t outputs = Product(Product(shape.output_height, shape.output_width), channels);
  if (node->inputs->size != kNodeInputCount || !InputsDiffer(node) || inputs < 0 ||
      !IsInt8Of(InputTensor(context, node, kNodeLayerOutput), outputs) ||
      !IsInt8Of(InputTensor(context, node, kNodeInitialWeights), weights) || !IsValid(shape) ||
      !ValuesMatch(context, node, options) || !GradientMatches(context, node, options)) {
    return false;
  }
  const EvalTensor* bias = InputTensor(context, node, kNodeBias);
  if (bias != nullptr && !(IsInt32Of(bias, channels) &&
                           IsInt32Of(InputTensor(context, node, kNodeInitialBias), channels))) {
    return false;
  }
  int32_t trained = channels;
  if (TrainsWeights(node)) {
    if (!IsInt8Of(InputTensor(context, node, kNodeLayerInput), inputs) ||
        !IsInt8Of(InputTensor(context, node, kNodeWeights), weights)) {
      return false;
    }
    trained = weights <= INT32_MAX - channels ? weights + channels : -1;
  } else if (bias == nullptr) {
    return false;
  }
  const EvalTensor* accumulator = InputTensor(context, node, kNodeAccumulator);
  return accumulator == nullptr || IsFloatOf(accumulator, trained);
}

// Number of elements of the gradient of one output channel's weights.
int32_t GradientSize(const Node* node, const LayerShape& shape) {
  return TrainsWeights(node) ? FilterSize(shape) : 0;
}

Status Prepare(Context* context, Node* node) {
  auto* state = static_cast<NodeState*>(node->user_data);
  if (state == nullptr || state->options == nullptr ||
      !TensorsMatch(context, node, *state->options)) {
    TFLM_ZO_REPORT(context,
                   "%s: options do not match the tensors; patch the model again with this tflm-zo",
                   kNodeOpName);
    return kError;
  }
  const LayerShape& shape = state->options->shape;
  const size_t words = static_cast<size_t>(GradientSize(node, shape)) +
                       static_cast<size_t>(ChannelWords(shape.output_channels));
  return RequestScratch(context, words * sizeof(float), &state->scratch);
}

template <typename T>
T* Data(Context* context, const Node* node, int input) {
  const EvalTensor* tensor = InputTensor(context, node, input);
  return tensor == nullptr ? nullptr : static_cast<T*>(TensorData(tensor));
}

// The trained tensors of a node.
struct Trained {
  int8_t* weights;  // nullptr: only the bias is trained
  const int8_t* initial_weights;
  int32_t* bias;
  const int32_t* initial_bias;
  float* accumulator;  // [weights, then biases], or nullptr: every sample is applied at once
};

uint32_t NodeKey(uint32_t seed, int32_t query, int32_t node) {
  return StreamKey(seed, Stream::kNodeDirection, static_cast<uint32_t>(query),
                   static_cast<uint32_t>(node));
}

NodeMap MakeMap(const NodeOptions& options, const NodeSetting& setting) {
  return NodeMap{options.shape.output_height,   options.shape.output_width,
                 options.shape.output_channels, setting.block,
                 options.activation_min,        options.activation_max};
}

// The weights of one output channel, see WeightIndex.
WeightRow FilterRow(const LayerShape& shape, int32_t channel) {
  return {WeightIndex(shape, channel, 0), shape.kind == kDepthwise ? shape.output_channels : 1,
          FilterSize(shape)};
}

// Of one output channel, in the units of FilterGradient.
struct ChannelGradient {
  const float*
      dw;  // [FilterSize], if weights are trained; nullptr: the mask leaves the channel out
  float db;
};

// Steps of one output channel's weights and bias.
void StepChannel(const NodeOptions& options, const Trained& trained, int32_t channel, float rate,
                 const ChannelGradient& gradient, uint32_t rounding_key) {
  const LayerShape& shape = options.shape;
  const int32_t factor = options.channels == 1 ? 0 : channel;
  if (trained.weights != nullptr) {
    StepWeights({trained.weights, trained.initial_weights, options.headroom},
                FilterRow(shape, channel), rate * WeightFactors(&options)[factor], gradient.dw,
                rounding_key);
  }
  if (trained.bias == nullptr) return;
  const int32_t count = shape.output_channels * FilterSize(shape);
  const bool perturbed =
      HasHeadroom(trained.initial_bias[channel], kMaxBias, options.bias_headroom);
  StepBias(&trained.bias[channel], rate * BiasFactors(&options)[factor] * gradient.db,
           RandomWord(rounding_key, static_cast<uint32_t>(count + channel)),
           perturbed ? kMaxBias - options.bias_headroom : kMaxBias);
}

// One pass through the op: the tensors of the layer, and what the session asks for.
class NodePass {
 public:
  NodePass(Context* context, const Node* node, const NodeState& state)
      : options_(*state.options),
        session_(Data<Session>(context, node, kNodeSession)),
        setting_(NodeSettings(session_)[options_.node]),
        x_(Data<const int8_t>(context, node, kNodeLayerInput)),
        y_(Data<int8_t>(context, node, kNodeLayerOutput)),
        feature_gradient_(Data<const float>(context, node, kNodeFeatureGradient)),
        report_(Data<Report>(context, node, kNodeReport)),
        gradient_size_(GradientSize(node, options_.shape)),
        dw_(static_cast<float*>(ScratchBuffer(context, state.scratch))),
        kept_(reinterpret_cast<uint32_t*>(dw_ + gradient_size_)),
        trained_{Data<int8_t>(context, node, kNodeWeights),
                 Data<const int8_t>(context, node, kNodeInitialWeights),
                 Data<int32_t>(context, node, kNodeBias),
                 Data<const int32_t>(context, node, kNodeInitialBias),
                 Data<float>(context, node, kNodeAccumulator)} {}

  void Perturb() const {
    KeepChannels(setting_.mask, session_->seed);
    PerturbNodes(y_, MakeMap(options_, setting_), kept_, session_->sign * setting_.sigma,
                 NodeKey(session_->seed, session_->query, options_.node));
  }

  void Update() const {
    const float rate = setting_.rate * session_->node_rate;
    if (feature_gradient_ != nullptr) {
      KeepChannels(Mask{}, 0);
      Step(PooledGradient(y_, options_, feature_gradient_), rate, session_->head_seed);
      return;
    }
    KeepChannels(setting_.mask, session_->update_seed);
    uint32_t keys[kMaxQueries];
    for (int32_t q = 0; q < session_->update_queries; ++q) {
      keys[q] = NodeKey(session_->update_seed, q, options_.node);
    }
    const NodeMap map = MakeMap(options_, setting_);
    const NodeGradient gradient(y_, map, keys, session_->losses, session_->update_queries);
    // The losses answer to a change of sigma codes of y; dL/dy is per real unit of y.
    const float unit = options_.inverse_output_scale / static_cast<float>(setting_.sigma);
    Step(gradient, rate * unit, session_->update_seed);
  }

  void Measure() const {
    if (feature_gradient_ != nullptr) {
      report_->layer_energy += GradientEnergy(PooledGradient(y_, options_, feature_gradient_));
      return;
    }
    session_->layer_energy += GradientEnergy(UnitGradient(y_, options_)) /
                              static_cast<float>(options_.shape.output_channels);
  }

  bool Measured() const {
    return (session_->actions & kMeasure) != 0 && options_.node >= session_->node_first &&
           options_.node < session_->node_last;
  }

  bool Perturbed() const {
    return session_->sign != 0 && setting_.sigma != 0 && options_.node >= session_->node_first &&
           options_.node < session_->node_last;
  }

  bool Updated() const {
    if (setting_.rate == 0.0f) return false;
    if (feature_gradient_ != nullptr) return (session_->actions & kHeadUpdate) != 0;
    return (session_->actions & kNodeUpdate) != 0 && setting_.sigma != 0 &&
           options_.node >= session_->update_first && options_.node < session_->update_last;
  }

 private:
  // Fills kept_ with a bit for each channel: whether the mask lets it take part.
  void KeepChannels(Mask setting, uint32_t seed) const {
    const auto node = static_cast<uint32_t>(options_.node);
    const ChannelMask mask(setting, StreamKey(seed, Stream::kMask, node, 0));
    const int32_t channels = options_.shape.output_channels;
    for (int32_t word = 0; word < ChannelWords(channels); ++word) kept_[word] = 0;
    for (int32_t c = 0; c < channels; ++c) {
      kept_[c >> 5] |= static_cast<uint32_t>(mask.Keeps(c)) << (c & 31);
    }
  }

  // Gradient of one output channel's weights and bias. dw: dw_, which the next call overwrites.
  template <typename Gradient>
  ChannelGradient GradientOfChannel(const Gradient& gradient, int32_t channel) const {
    const auto slope_at = [&gradient, channel](int32_t row, int32_t column) {
      return gradient.At(row, column, channel);
    };
    if (trained_.weights == nullptr) return {dw_, BiasGradient(options_.shape, slope_at)};
    return {dw_,
            FilterGradient(options_.shape, x_, options_.input_zero_point, channel, slope_at, dw_)};
  }

  // One step of all weights and biases, or its part for the accumulator.
  template <typename Gradient>
  void Step(const Gradient& gradient, float rate, uint32_t seed) const {
    const uint32_t rounding_key =
        StreamKey(seed, Stream::kNodeRounding, static_cast<uint32_t>(options_.node), 0);
    for (int32_t c = 0; c < options_.shape.output_channels; ++c) {
      const bool kept = KeepsChannel(kept_, c);
      const ChannelGradient channel =
          kept ? GradientOfChannel(gradient, c) : ChannelGradient{nullptr, 0.0f};
      if (trained_.accumulator != nullptr) {
        Accumulate(channel, c, rate, rounding_key);
      } else if (kept) {
        StepChannel(options_, trained_, c, rate, channel, rounding_key);
      }
    }
  }

  // Adds the gradient of channel `c` to its sums over the batch, and takes a step by these sums if
  // the session asks for it.
  void Accumulate(const ChannelGradient& gradient, int32_t c, float rate,
                  uint32_t rounding_key) const {
    float* sums = trained_.accumulator + c * gradient_size_;
    float* bias_sum = trained_.accumulator + options_.shape.output_channels * gradient_size_ + c;
    if ((session_->actions & kNodeBegin) != 0) Clear(sums, bias_sum);
    for (int32_t k = 0; gradient.dw != nullptr && k < gradient_size_; ++k) {
      sums[k] += gradient.dw[k];
    }
    *bias_sum += gradient.db;
    if ((session_->actions & kNodeApply) == 0) return;
    StepChannel(options_, trained_, c, rate, {sums, *bias_sum}, rounding_key);
    Clear(sums, bias_sum);
  }

  // Squared length of the gradient of the trained tensors, real units.
  template <typename Gradient>
  float GradientEnergy(const Gradient& gradient) const {
    float energy = 0.0f;
    for (int32_t c = 0; c < options_.shape.output_channels; ++c) {
      const ChannelGradient channel = GradientOfChannel(gradient, c);
      float sum = 0.0f;
      for (int32_t k = 0; k < gradient_size_; ++k) sum += channel.dw[k] * channel.dw[k];
      const int32_t factor = options_.channels == 1 ? 0 : c;
      // s_x^2: dw is in codes of the input.
      const float unit = WeightFactors(&options_)[factor] / BiasFactors(&options_)[factor];
      energy += sum * unit;
      if (trained_.bias != nullptr) energy += channel.db * channel.db;
    }
    return energy;
  }

  void Clear(float* sums, float* bias_sum) const {
    for (int32_t k = 0; k < gradient_size_; ++k) sums[k] = 0.0f;
    *bias_sum = 0.0f;
  }

  const NodeOptions& options_;
  Session* session_;
  const NodeSetting& setting_;
  const int8_t* x_;
  int8_t* y_;
  const float* feature_gradient_;
  Report* report_;
  int32_t gradient_size_;
  float* dw_;
  uint32_t* kept_;
  Trained trained_;
};

Status Invoke(Context* context, Node* node) {
  const auto& state = *static_cast<const NodeState*>(node->user_data);
  const EvalTensor* session = InputTensor(context, node, kNodeSession);
  if (!IsSound(*static_cast<const Session*>(TensorData(session)), SettingWords(session),
               state.options->node + 1)) {
    TFLM_ZO_REPORT(context, "%s: no session has begun", kNodeOpName);
    return kError;
  }
  const NodePass pass(context, node, state);
  if (pass.Measured()) pass.Measure();
  if (pass.Perturbed()) pass.Perturb();
  if (pass.Updated()) pass.Update();
  return kOk;
}

}  // namespace

Registration NodeOp() { return MakeRegistration(Init, Prepare, Invoke); }

}  // namespace tflm_zo
