// SPDX-License-Identifier: Apache-2.0
#include "loss.h"

#include "real_math.h"

namespace tflm_zo {
namespace {

// Largest logit; of the pair (0, z) for a sigmoid unit.
float Largest(const float* logits, int32_t outputs) {
  float largest = outputs == 1 ? 0.0f : logits[0];
  for (int32_t j = 0; j < outputs; ++j) {
    if (logits[j] > largest) largest = logits[j];
  }
  return largest;
}

// Sum of exp(z_j - largest).
float ExpSum(const float* logits, int32_t outputs, float largest) {
  float sum = outputs == 1 ? ExpNonPositive(-largest) : 0.0f;
  for (int32_t j = 0; j < outputs; ++j) sum += ExpNonPositive(logits[j] - largest);
  return sum;
}

// Softmax of logits; a sigmoid unit's z stands for the pair (0, z).
class Softmax {
 public:
  Softmax(const float* logits, int32_t outputs)
      : largest_(Largest(logits, outputs)),
        sum_(ExpSum(logits, outputs, largest_)),
        log_sum_(LogPositive(sum_)) {}

  float Probability(float z) const { return ExpNonPositive(z - largest_) / sum_; }
  float Log(float z) const { return (z - largest_) - log_sum_; }

 private:
  float largest_;
  float sum_;
  float log_sum_;
};

// The probability of a class in a uniform prediction.
float Uniform(int32_t outputs) { return 1.0f / static_cast<float>(outputs == 1 ? 2 : outputs); }

// Logarithm of a mean probability, from its difference to the uniform one. The bound keeps classes
// that were never predicted from ruling the loss.
float LogMean(float difference, int32_t outputs) {
  constexpr float kLeast = 1e-6f;
  const float mean = Uniform(outputs) + difference;
  return LogPositive(mean < kLeast ? kLeast : mean);
}

}  // namespace

float CrossEntropy(const float* logits, int32_t outputs, int32_t target) {
  const float largest = Largest(logits, outputs);
  const float chosen = outputs > 1 ? logits[target] : (target == 1 ? logits[0] : 0.0f);
  return LogPositive(ExpSum(logits, outputs, largest)) + (largest - chosen);
}

void CrossEntropyGradient(float* logits, int32_t outputs, int32_t target) {
  const float largest = Largest(logits, outputs);
  const float sum = ExpSum(logits, outputs, largest);
  for (int32_t j = 0; j < outputs; ++j) {
    const float probability = ExpNonPositive(logits[j] - largest) / sum;
    const bool is_target = outputs == 1 ? target == 1 : j == target;
    logits[j] = is_target ? probability - 1.0f : probability;
  }
}

float Entropy(const float* logits, int32_t outputs, const float* mean) {
  const Softmax p(logits, outputs);
  float sum = 0.0f;
  if (outputs == 1) sum = p.Probability(0.0f) * (p.Log(0.0f) - LogMean(-mean[0], outputs));
  for (int32_t j = 0; j < outputs; ++j) {
    sum += p.Probability(logits[j]) * (p.Log(logits[j]) - LogMean(mean[j], outputs));
  }
  return -sum;
}

void EntropyGradient(float* logits, int32_t outputs, const float* mean) {
  const Softmax p(logits, outputs);
  const float loss = Entropy(logits, outputs, mean);
  for (int32_t j = 0; j < outputs; ++j) {
    const float ratio = p.Log(logits[j]) - LogMean(mean[j], outputs);
    logits[j] = -p.Probability(logits[j]) * (ratio + loss);
  }
}

void UpdateMeanPrediction(const float* logits, int32_t outputs, float* mean) {
  constexpr float kRate = 0.01f;
  const Softmax p(logits, outputs);
  for (int32_t j = 0; j < outputs; ++j) {
    mean[j] += kRate * ((p.Probability(logits[j]) - Uniform(outputs)) - mean[j]);
  }
}

float MeanSquaredError(const float* outputs, const int8_t* target, int32_t count, float scale,
                       int32_t zero_point) {
  float sum = 0.0f;
  for (int32_t j = 0; j < count; ++j) {
    const float error = outputs[j] - static_cast<float>(target[j] - zero_point) * scale;
    sum += error * error;
  }
  return sum / static_cast<float>(count);
}

void MeanSquaredErrorGradient(float* outputs, const int8_t* target, int32_t count, float scale,
                              int32_t zero_point) {
  const float factor = 2.0f / static_cast<float>(count);
  for (int32_t j = 0; j < count; ++j) {
    const float error = outputs[j] - static_cast<float>(target[j] - zero_point) * scale;
    outputs[j] = error * factor;
  }
}

}  // namespace tflm_zo
