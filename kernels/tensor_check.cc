// SPDX-License-Identifier: Apache-2.0
#include "tensor_check.h"

namespace tflm_zo {
namespace {

bool Has(const EvalTensor* tensor, int32_t count) {
  return count >= 0 && ElementCount(tensor) == count;
}

constexpr int32_t kWord = sizeof(int32_t);
constexpr int32_t kWordsOfSetting = sizeof(Setting) / kWord;
constexpr int32_t kWordsOfNodeSetting = sizeof(NodeSetting) / kWord;

}  // namespace

int32_t Product(int32_t a, int32_t b) {
  if (a < 1 || b < 1) return -1;
  const int64_t product = static_cast<int64_t>(a) * b;
  return product > INT32_MAX ? -1 : static_cast<int32_t>(product);
}

bool IsInt8Of(const EvalTensor* tensor, int32_t count) {
  return tensor != nullptr && IsInt8(tensor) && Has(tensor, count);
}

bool IsInt32Of(const EvalTensor* tensor, int32_t count) {
  return tensor != nullptr && IsInt32(tensor) && Has(tensor, count);
}

bool IsFloatOf(const EvalTensor* tensor, int32_t count) {
  return tensor != nullptr && IsFloat32(tensor) && Has(tensor, count);
}

int32_t SettingWords(const EvalTensor* tensor) {
  return tensor != nullptr && IsInt32(tensor) ? ElementCount(tensor) - kSessionWords : -1;
}

bool InputsDiffer(const Node* node) {
  for (int i = 0; i < node->inputs->size; ++i) {
    for (int j = 0; j < i; ++j) {
      const int input = node->inputs->data[i];
      if (input >= 0 && input == node->inputs->data[j]) return false;
    }
  }
  return true;
}

bool NoneNegative(const float* values, int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    if (!(values[i] >= 0.0f)) return false;
  }
  return true;
}

bool IsSound(const Session& session, int32_t setting_words, int32_t nodes) {
  const int32_t parameters = session.parameter_count;
  if (session.magic != kSessionMagic || !Within(parameters, 0, setting_words / kWordsOfSetting)) {
    return false;
  }
  const int32_t node_words = setting_words - parameters * kWordsOfSetting;
  return nodes <= node_words / kWordsOfNodeSetting && Within(session.sign, -1, 1) &&
         Within(session.query, 0, kMaxQueries - 1) &&
         Within(session.update_queries, 0, kMaxQueries) && Within(session.first, 0, session.last) &&
         session.last <= parameters;
}

}  // namespace tflm_zo
