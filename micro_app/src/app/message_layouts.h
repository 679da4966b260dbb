// SPDX-License-Identifier: Apache-2.0
//
// The payloads of requests and answers, as they are on the line: little-endian, without padding. An
// answer begins with its AnswerStatus, which is not part of these. What follows a layout, if
// anything, is said with it. docs/protocol.md tells what the messages do.
#ifndef TFLM_ZO_MICRO_APP_MESSAGE_LAYOUTS_H_
#define TFLM_ZO_MICRO_APP_MESSAGE_LAYOUTS_H_

#include <cstdint>

#include "byte_order.h"
#include "mask.h"
#include "training_progress.h"

namespace tflm_zo {

#pragma pack(push, 1)

struct HelloRequest {
  uint32_t session;
};

struct HelloAnswer {
  uint16_t version;  // kMessageVersion, first in every version of the protocol
  uint8_t continued;
  uint8_t model_status;  // a TrainerStatus
  uint8_t boot_status;   // a CheckpointStatus
  uint32_t boot_checkpoint;
  uint64_t model_hash;
  uint32_t model_bytes;
  uint32_t input_bytes;
  uint32_t target_bytes;
  uint32_t output_bytes;
  uint16_t parameters;
  uint16_t nodes;
  uint16_t batch_capacity;
  uint32_t max_payload;
  TrainingProgress progress;
  // A line of text.
};

struct ParameterRequest {
  uint16_t index;
};

struct ParameterAnswer {
  uint8_t kind;  // a ParameterKind
  uint8_t exact;
  int32_t layer;
  uint32_t count;
  int32_t headroom;
  uint32_t moments;  // floats of the momentum state
};

// What the passes of a step add up to. The answer to kEndBatch and kTrain, and that of a request in
// work.
struct StepTotals {
  uint32_t passes;
  float loss;      // sum
  uint32_t right;  // passes whose prediction is the label
};

struct MetricsAnswer {
  TrainingProgress progress;
  StepTotals last_step;
  uint32_t passes;  // since the start
  uint32_t pass_micros;
  uint32_t damaged_frames;
  uint32_t frozen_runs;
};

struct ReadModelRequest {
  uint32_t offset;
  uint16_t size;
};

// Of kInfer, kEvaluate, kSample and kObserve, and behind a StepRequest of kTrain.
struct PieceRequest {
  uint32_t offset;
  // Bytes of the record.
};

struct InferAnswer {
  int32_t prediction;
  // The output tensor.
};

struct EvaluateAnswer {
  int32_t prediction;
  float loss;
  float feature_energy;
};

// Of kEndBatch, and in front of the piece of kTrain.
struct StepRequest {
  uint32_t step;
  float rate_scale;
};

// Of kBeginBatch (that fit) and kSample (that are there).
struct BatchAnswer {
  uint16_t samples;
};

// Of kFinish.
struct PassesAnswer {
  uint32_t passes;
};

// Of kBeginObservation.
struct ChannelsAnswer {
  uint32_t channels;
};

// Of kObserve and kRecalibrate.
struct ObservedAnswer {
  uint32_t samples;
};

struct GroupFields {
  uint8_t mode;  // a GroupMode
  uint8_t queries;
  uint16_t first;
  uint16_t last;
};

struct ScheduleRequest {
  uint32_t run;
  uint32_t step;
  uint16_t largest_batch;
  uint32_t seed;
  uint8_t antithetic;
  uint8_t exact;  // an Exact
  uint8_t accumulate;
  float head_rate;
  uint8_t group_count;
  // GroupFields groups[group_count].
};

struct SetParameterRequest {
  uint16_t index;
  int32_t sigma;
  float rate;
  Mask mask;
};

struct SetNodeRequest {
  uint16_t node;
  int32_t sigma;
  int32_t block;
  float rate;
  Mask mask;
};

struct CheckpointAnswer {
  uint32_t sequence;
};

struct ReadWeightsRequest {
  uint16_t index;
  uint32_t offset;
  uint16_t size;
};

struct WriteWeightsRequest {
  uint16_t index;
  uint32_t offset;
  // Bytes of the parameter.
};

#pragma pack(pop)

}  // namespace tflm_zo

#endif  // TFLM_ZO_MICRO_APP_MESSAGE_LAYOUTS_H_
