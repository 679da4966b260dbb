// SPDX-License-Identifier: Apache-2.0
//
// Custom options of the ops: what the patcher knows about the model and the ops need at run time.
// They are read in place from the flatbuffer, so they cost flash and no RAM. Little-endian, 4-byte
// aligned; written by tflm_zo/ops/options.py.
#ifndef TFLM_ZO_KERNELS_OP_OPTIONS_H_
#define TFLM_ZO_KERNELS_OP_OPTIONS_H_

#include <cstddef>
#include <cstdint>

#include "layer_shape.h"

namespace tflm_zo {

constexpr uint32_t kOptionsVersion = 6;
constexpr uint32_t kParameterOptionsMagic = 0x5A4F5031u;
constexpr uint32_t kLossOptionsMagic = 0x5A4F4C31u;
constexpr uint32_t kNodeOptionsMagic = 0x5A4F4E31u;

enum ParameterKind : int32_t {
  kWeights = 0,  // int8, codes -127..127
  kBias = 1,     // int32
  // What training keeps beside the model, 0 at the start and not to be perturbed:
  kResidual = 2,        // int8: 1/256 codes below the weights of the exact head
  kMeanPrediction = 3,  // float: see Entropy in loss.h
};

inline size_t ElementBytes(ParameterKind kind) {
  return kind == kBias || kind == kMeanPrediction ? 4 : 1;
}

struct ParameterEntry {
  ParameterKind kind;
  int32_t layer;           // ordinal among the model's trainable layers
  int32_t variable_input;  // index among the op's inputs
  int32_t initial_input;   // likewise; -1: 0 is the initial value
  int32_t channels;        // output channels
  int32_t channel_stride;  // channel of element i: (i / channel_stride) % channels
  int32_t headroom;        // largest sigma for which perturbing stays reversible
  int32_t exact;           // 1: also updated in closed form, so not to be perturbed in such a pass
  int32_t moments_input;   // index among the op's inputs of the momentum state; -1: plain descent
  int32_t factor_offset;   // first float in the factor table: 1 / scale^2
  int32_t factor_count;    // one for each channel, or one for all
};

// What an operator of the model carries from one pass to the next, such as the state of an LSTM: a
// variable tensor, whose bytes are all set to `fill` before each pass.
struct StateEntry {
  int32_t input;  // index among the op's inputs
  int32_t bytes;
  int32_t fill;
};

struct ParameterOptions {
  uint32_t magic;
  uint32_t version;
  int32_t parameter_count;
  int32_t node_count;
  int32_t factor_count;
  // What the input adapter is recalibrated by (recalibrate.h); 0 channels: nothing.
  int32_t reference_channels;
  int32_t reference_zero_point;  // of the input codes
  int32_t gain_parameter;        // indices of the adapter's weights and bias
  int32_t offset_parameter;
  int32_t state_count;
  // ParameterEntry entries[parameter_count]; float factors[factor_count]; of the input before any
  // drift, in codes: float mean[reference_channels], float spread[reference_channels]; StateEntry
  // states[state_count].
};

inline const ParameterEntry* Entries(const ParameterOptions* options) {
  return reinterpret_cast<const ParameterEntry*>(options + 1);
}

inline const float* Factors(const ParameterOptions* options) {
  return reinterpret_cast<const float*>(Entries(options) + options->parameter_count);
}

inline const float* ReferenceMeans(const ParameterOptions* options) {
  return Factors(options) + options->factor_count;
}

inline const float* ReferenceSpreads(const ParameterOptions* options) {
  return ReferenceMeans(options) + options->reference_channels;
}

inline const StateEntry* States(const ParameterOptions* options) {
  return reinterpret_cast<const StateEntry*>(ReferenceSpreads(options) +
                                             options->reference_channels);
}

// Of 64 bits, like those below: counts that no model has must not end in a small sum.
inline uint64_t OptionsBytes(const ParameterOptions* options) {
  return sizeof(ParameterOptions) +
         static_cast<uint64_t>(options->parameter_count) * sizeof(ParameterEntry) +
         static_cast<uint64_t>(options->factor_count) * sizeof(float) +
         2 * static_cast<uint64_t>(options->reference_channels) * sizeof(float) +
         static_cast<uint64_t>(options->state_count) * sizeof(StateEntry);
}

enum LossKind : int32_t {
  kCrossEntropy = 0,      // target: a class
  kMeanSquaredError = 1,  // target: a vector like the output
  kEntropy = 2,           // target: a class, which only serves to count right answers and may be -1
};

struct LossOptions {
  uint32_t magic;
  uint32_t version;
  int32_t kind;
  int32_t outputs;  // number of logits of a position; 1 with (cross-)entropy: one sigmoid unit
  float scale;      // of the int8 logits
  int32_t zero_point;
  int32_t high_resolution;  // 1: logits from the head's int32 accumulators, not their int8 codes
  int32_t features;         // inputs of the head; 0: no exact head
  int32_t feature_zero_point;
  float feature_scale;
  int32_t headroom;  // the head's weights stay within +-(127 - headroom)
  // 1: exact updates change the head's bias; its weights, if it has a residual
  int32_t trains_bias;
  int32_t positions;  // of a map of logits, each of which has a class of its own; 1: no map
  int32_t output;     // the model's output that is trained: its place among those of the original
  // If features > 0: float accumulator_scale[outputs] (s_x * s_w), float weight_factor[outputs]
  // (s_x / s_w).
};

inline const float* AccumulatorScales(const LossOptions* options) {
  return reinterpret_cast<const float*>(options + 1);
}

inline const float* WeightFactors(const LossOptions* options) {
  return AccumulatorScales(options) + options->outputs;
}

inline uint64_t OptionsBytes(const LossOptions* options) {
  return sizeof(LossOptions) +
         (options->features > 0 ? 2 * static_cast<uint64_t>(options->outputs) * sizeof(float) : 0);
}

struct NodeOptions {
  uint32_t magic;
  uint32_t version;
  int32_t node;  // its number: index of its NodeSetting
  LayerShape shape;
  int32_t input_zero_point;
  int32_t activation_min;  // codes at which the fused activation saturates
  int32_t activation_max;
  int32_t headroom;  // of the weights, see ParameterEntry
  int32_t bias_headroom;
  float inverse_output_scale;  // 1 / s_y
  // Last layer before the head: every window_height x window_width outputs are averaged to one
  // feature of a map of pooled_width columns. 0: the gradient comes from node perturbation.
  int32_t window_height;
  int32_t window_width;
  int32_t pooled_width;
  int32_t channels;  // number of factors: output channels, or 1
  // float weight_factor[channels] (s_x / s_w), float bias_factor[channels] (1 / (s_x s_w)).
};

inline const float* WeightFactors(const NodeOptions* options) {
  return reinterpret_cast<const float*>(options + 1);
}

inline const float* BiasFactors(const NodeOptions* options) {
  return WeightFactors(options) + options->channels;
}

inline uint64_t OptionsBytes(const NodeOptions* options) {
  return sizeof(NodeOptions) + 2 * static_cast<uint64_t>(options->channels) * sizeof(float);
}

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_OP_OPTIONS_H_
