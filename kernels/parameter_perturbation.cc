// SPDX-License-Identifier: Apache-2.0
#include "parameter_perturbation.h"

#include "perturbation.h"
#include "random.h"

namespace tflm_zo {
namespace {

uint32_t DirectionKey(uint32_t seed, int32_t query, int32_t parameter) {
  return StreamKey(seed, Stream::kWeightDirection, static_cast<uint32_t>(query),
                   static_cast<uint32_t>(parameter));
}

// A mask holds for weights and bias of a layer alike, so both take the same random stream.
Part MakePart(const ParameterState& state, const ParameterView& view, int32_t parameter,
              uint32_t seed) {
  const ParameterEntry& entry = *view.entry;
  Part part;
  part.count = view.count;
  part.headroom = entry.headroom;
  part.layout = ChannelLayout{entry.channels, entry.channel_stride, entry.factor_count,
                              Factors(state.options) + entry.factor_offset};
  part.mask = Settings(GetSession(state))[parameter].mask;
  part.mask_key = StreamKey(seed, Stream::kMask, static_cast<uint32_t>(entry.layer), 0);
  return part;
}

// Adds sign * sigma * u to the parameters that the session names as perturbed.
void AddPerturbation(const ParameterState& state, const Session& session, int32_t sign) {
  const Setting* settings = Settings(GetSession(state));
  for (int32_t p = session.first; p < session.last; ++p) {
    ParameterView view;
    if (settings[p].sigma == 0 || !GetParameter(state, p, &view)) continue;
    const int32_t amount = sign * settings[p].sigma;
    const uint32_t key = DirectionKey(session.seed, session.query, p);
    const Part part = MakePart(state, view, p, session.seed);
    if (view.entry->kind == kBias) {
      Perturb(static_cast<int32_t*>(view.data), static_cast<const int32_t*>(view.initial), part,
              amount, key);
    } else {
      Perturb(static_cast<int8_t*>(view.data), static_cast<const int8_t*>(view.initial), part,
              amount, key);
    }
  }
}

}  // namespace

void RestoreClean(const ParameterState& state) {
  Session* session = GetSession(state);
  if (session->sign != 0) AddPerturbation(state, *session, -session->sign);
  session->sign = 0;
}

void SetPerturbation(const ParameterState& state, const Command& command) {
  Session* session = GetSession(state);
  const bool same = session->sign == command.sign && session->seed == command.seed &&
                    session->query == command.query && session->first == command.first &&
                    session->last == command.last;
  if (!same) RestoreClean(state);
  const bool perturb = session->sign == 0 && command.sign != 0;
  session->seed = command.seed;
  session->query = command.query;
  session->first = command.first;
  session->last = command.last;
  if (perturb) AddPerturbation(state, *session, command.sign);
  session->sign = command.sign;
}

void ApplyWeightUpdate(const ParameterState& state, const Command& command) {
  Session* session = GetSession(state);
  const Setting* settings = Settings(session);
  const float* slopes = session->losses;
  uint32_t keys[kMaxQueries];
  for (int32_t p = command.update_first; p < command.update_last; ++p) {
    ParameterView view;
    if (settings[p].sigma == 0 || settings[p].rate == 0.0f || !GetParameter(state, p, &view))
      continue;
    for (int32_t q = 0; q < command.update_queries; ++q) {
      keys[q] = DirectionKey(command.update_seed, q, p);
    }
    Update update;
    update.part = MakePart(state, view, p, command.update_seed);
    update.rate = settings[p].rate * command.update_rate;
    update.sigma = static_cast<float>(settings[p].sigma);
    update.moments = view.moments;
    update.keys = keys;
    update.slopes = slopes;
    update.queries = command.update_queries;
    update.rounding_key =
        StreamKey(command.update_seed, Stream::kUpdateRounding, static_cast<uint32_t>(p), 0);
    if (view.entry->kind == kBias) {
      ApplyUpdate(static_cast<int32_t*>(view.data), static_cast<const int32_t*>(view.initial),
                  update);
    } else {
      ApplyUpdate(static_cast<int8_t*>(view.data), static_cast<const int8_t*>(view.initial),
                  update);
    }
  }
}

}  // namespace tflm_zo
