// SPDX-License-Identifier: Apache-2.0
#include "parameter_op.h"

#include <cstring>

#include "momentum.h"
#include "perturbation.h"
#include "random.h"

namespace tflm_zo {
namespace {

constexpr int kCommandInput = 0;
constexpr int kSessionInput = 1;

// Fills the state from the custom options, or leaves options null if they are not ours.
void* Init(Context* context, const char* buffer, size_t length) {
  auto* state = static_cast<ParameterState*>(AllocatePersistent(context, sizeof(ParameterState)));
  if (state == nullptr) return nullptr;
  const auto* options = reinterpret_cast<const ParameterOptions*>(buffer);
  const bool valid = buffer != nullptr && length >= sizeof(ParameterOptions) &&
                     options->magic == kParameterOptionsMagic &&
                     options->version == kOptionsVersion && options->parameter_count >= 0 &&
                     options->node_count >= 0 && options->factor_count >= 0 &&
                     length >= OptionsBytes(options);
  state->options = valid ? options : nullptr;
  state->context = context;
  state->node = nullptr;
  return state;
}

int32_t SessionWords(const ParameterOptions& options) {
  return kSessionWords +
         static_cast<int32_t>((static_cast<size_t>(options.parameter_count) * sizeof(Setting) +
                               static_cast<size_t>(options.node_count) * sizeof(NodeSetting)) /
                              sizeof(int32_t));
}

bool EntryMatchesTensors(Context* context, const Node* node, const ParameterEntry& entry) {
  const EvalTensor* variable = InputTensor(context, node, entry.variable_input);
  if (variable == nullptr) return false;
  if (entry.kind == kBias ? !IsInt32(variable) : ElementBytes(entry.kind) == 1 && !IsInt8(variable))
    return false;
  if (entry.initial_input < 0) return true;
  const EvalTensor* initial = InputTensor(context, node, entry.initial_input);
  const EvalTensor* moments = InputTensor(context, node, entry.moments_input);
  if (moments != nullptr && ElementCount(moments) != Momentum::Words(ElementCount(variable)))
    return false;
  return initial != nullptr && ElementCount(initial) == ElementCount(variable) &&
         entry.channels > 0 && entry.channel_stride > 0 && entry.headroom >= 0 &&
         (entry.factor_count == 1 || entry.factor_count == entry.channels);
}

Status Prepare(Context* context, Node* node) {
  auto* state = static_cast<ParameterState*>(node->user_data);
  if (state == nullptr || state->options == nullptr) {
    TFLM_ZO_REPORT(context,
                   "%s: options of another version; patch the model again with this tflm-zo",
                   kParameterOpName);
    return kError;
  }
  state->node = node;
  const ParameterOptions& options = *state->options;
  const EvalTensor* command = InputTensor(context, node, kCommandInput);
  const EvalTensor* session = InputTensor(context, node, kSessionInput);
  if (command == nullptr || ElementCount(command) != kCommandWords || session == nullptr ||
      ElementCount(session) != SessionWords(options)) {
    TFLM_ZO_REPORT(context,
                   "%s: command or session tensor of the wrong size; patch the model again",
                   kParameterOpName);
    return kError;
  }
  for (int32_t p = 0; p < options.parameter_count; ++p) {
    if (!EntryMatchesTensors(context, node, Entries(&options)[p])) {
      TFLM_ZO_REPORT(context, "%s: parameter %d does not match its tensors; patch the model again",
                     kParameterOpName, static_cast<int>(p));
      return kError;
    }
  }
  return kOk;
}

uint32_t DirectionKey(uint32_t seed, int32_t query, int32_t parameter) {
  return StreamKey(seed, Stream::kWeightDirection, static_cast<uint32_t>(query),
                   static_cast<uint32_t>(parameter));
}

// Channels of weights and bias of a layer have one mask, elements one of their own.
Part MakePart(const ParameterState& state, const ParameterView& view, int32_t parameter,
              uint32_t seed) {
  const ParameterEntry& entry = *view.entry;
  const Mask mask = Settings(GetSession(state))[parameter].mask;
  const uint32_t which = mask.kind == kRandomChannels ? 0 : static_cast<uint32_t>(parameter) + 1;
  Part part;
  part.count = view.count;
  part.headroom = entry.headroom;
  part.layout = ChannelLayout{entry.channels, entry.channel_stride, entry.factor_count,
                              Factors(state.options) + entry.factor_offset};
  part.mask = mask;
  part.mask_key = StreamKey(seed, Stream::kMask, static_cast<uint32_t>(entry.layer), which);
  return part;
}

// Adds sign * sigma * u to the parameters that the session's perturbation names.
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

void CopyInitialWeights(const ParameterState& state) {
  ParameterView view;
  for (int32_t p = 0; GetParameter(state, p, &view); ++p) {
    const size_t bytes = static_cast<size_t>(view.count) * ElementBytes(view.entry->kind);
    if (view.moments != nullptr) {
      std::memset(view.moments, 0,
                  static_cast<size_t>(Momentum::Words(view.count)) * sizeof(float));
    }
    if (view.initial != nullptr) {
      std::memcpy(view.data, view.initial, bytes);
    } else {
      std::memset(view.data, 0, bytes);
    }
  }
  GetSession(state)->sign = 0;
}

// TFLM zeroes variable tensors in AllocateTensors and Reset; the first pass after that ends up
// here.
void StartSession(const ParameterState& state) {
  Session* session = GetSession(state);
  std::memset(session, 0, static_cast<size_t>(SessionWords(*state.options)) * sizeof(int32_t));
  session->magic = kSessionMagic;
  session->parameter_count = state.options->parameter_count;
  const auto address = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(&state));
  session->state_address[0] = static_cast<uint32_t>(address);
  session->state_address[1] = static_cast<uint32_t>(address >> 32);
  CopyInitialWeights(state);
}

// Slopes take the place of the losses they are made from: the table is cleared for the next queries
// anyway.
void LossesToSlopes(Session* session, const Command& command) {
  const bool forward = (command.actions & kForwardDifference) != 0;
  for (int32_t q = 0; q < command.update_queries; ++q) {
    const float loss = session->losses[q];
    session->losses[q] = (forward ? loss - session->base_loss : loss) * command.update_scale;
  }
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

// Whether these values can be perturbed and restored exactly.
template <typename T>
bool Reversible(const T* values, const ParameterView& view, int32_t limit) {
  const auto* initial = static_cast<const T*>(view.initial);
  const int32_t headroom = view.entry->headroom;
  for (int32_t i = 0; i < view.count; ++i) {
    if (HasHeadroom(initial[i], limit, headroom) && !HasHeadroom(values[i], limit, headroom)) {
      return false;
    }
  }
  return true;
}

bool ValidRange(int32_t first, int32_t last, int32_t count) {
  return first >= 0 && first <= last && last <= count;
}

// Whether a pass would perturb weights that it also updates in closed form.
bool PerturbsExactLayer(const Command& command, const ParameterOptions& options,
                        const Setting* settings) {
  for (int32_t p = command.first; p < command.last; ++p) {
    if (Entries(&options)[p].exact && settings[p].sigma != 0) return true;
  }
  return false;
}

const char* FaultOf(const Command& command, const ParameterOptions& options,
                    const Setting* settings) {
  if (command.sign < -1 || command.sign > 1) return "sign is not -1, 0 or +1";
  if (command.query < 0 || command.query >= kMaxQueries) return "query is not in 0..63";
  if (command.update_queries < 0 || command.update_queries > kMaxQueries) {
    return "update_queries is not in 0..64";
  }
  const bool update_nodes = (command.actions & kNodeUpdate) != 0;
  const int32_t updated = update_nodes ? options.node_count : options.parameter_count;
  if (!ValidRange(command.first, command.last, options.parameter_count) ||
      !ValidRange(command.node_first, command.node_last, options.node_count) ||
      !ValidRange(command.update_first, command.update_last, updated)) {
    return "a range is not within the model's parameters or nodes";
  }
  if (update_nodes && (command.actions & kUpdate) != 0) {
    return "a pass updates either parameters or nodes";
  }
  if (update_nodes && command.sign != 0) return "nodes are updated on clean passes only";
  if ((command.actions & kMeasure) != 0 &&
      (command.sign != 0 || (command.actions & (kNodeUpdate | kHeadUpdate)) != 0)) {
    return "a pass measures gradients with clean weights only, and updates nothing";
  }
  if ((command.actions & kHeadUpdate) != 0 && command.sign != 0 &&
      (command.node_first < command.node_last || PerturbsExactLayer(command, options, settings))) {
    return "a pass cannot perturb what it updates in closed form";
  }
  return nullptr;
}

void BringToState(const ParameterState& state, const Command& command) {
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

Status Invoke(Context* context, Node* node) {
  const auto& state = *static_cast<const ParameterState*>(node->user_data);
  Session* session = GetSession(state);
  if (session->magic != kSessionMagic) StartSession(state);

  Command command;
  void* command_data = TensorData(InputTensor(context, node, kCommandInput));
  std::memcpy(&command, command_data, sizeof(command));
  if (command.magic != kCommandMagic) {
    command = Command{};
  } else {
    std::memset(command_data, 0, sizeof(uint32_t));
  }
  session->actions = 0;
  const char* fault = FaultOf(command, *state.options, Settings(session));
  if (fault != nullptr) {
    TFLM_ZO_REPORT(context, "%s: bad command: %s", kParameterOpName, fault);
    return kError;
  }

  if (command.actions & kInitialise) CopyInitialWeights(state);
  if (command.actions & kUpdate) {
    RestoreClean(state);
    LossesToSlopes(session, command);
    ApplyWeightUpdate(state, command);
  }
  if (command.actions & kNodeUpdate) LossesToSlopes(session, command);
  if (command.actions & kClearLosses) {
    session->base_loss = 0.0f;
    std::memset(session->losses, 0, sizeof(session->losses));
  }
  BringToState(state, command);
  session->actions = command.actions;
  session->layer_energy = 0.0f;
  session->node_first = command.node_first;
  session->node_last = command.node_last;
  session->update_first = command.update_first;
  session->update_last = command.update_last;
  session->update_seed = command.update_seed;
  session->update_queries = command.update_queries;
  session->node_rate = command.node_rate;
  session->head_rate = command.head_rate;
  session->head_seed = command.head_seed;
  return kOk;
}

}  // namespace

Session* GetSession(const ParameterState& state) {
  return static_cast<Session*>(TensorData(InputTensor(state.context, state.node, kSessionInput)));
}

bool GetParameter(const ParameterState& state, int32_t index, ParameterView* view) {
  if (index < 0 || index >= state.options->parameter_count) return false;
  view->entry = Entries(state.options) + index;
  const EvalTensor* variable = InputTensor(state.context, state.node, view->entry->variable_input);
  const EvalTensor* initial = InputTensor(state.context, state.node, view->entry->initial_input);
  view->data = TensorData(variable);
  view->initial = initial == nullptr ? nullptr : TensorData(initial);
  view->count = ElementCount(variable);
  const EvalTensor* moments = InputTensor(state.context, state.node, view->entry->moments_input);
  view->moments = moments == nullptr ? nullptr : static_cast<float*>(TensorData(moments));
  return true;
}

void RestoreClean(const ParameterState& state) {
  Session* session = GetSession(state);
  if (session->sign != 0) AddPerturbation(state, *session, -session->sign);
  session->sign = 0;
}

bool Configure(const ParameterState& state, int32_t index, int32_t sigma, float rate, Mask mask) {
  ParameterView view;
  if (!GetParameter(state, index, &view) || view.entry->initial_input < 0) return false;
  // The negated comparison also refuses a NaN.
  if (sigma < 0 || sigma > view.entry->headroom || !(rate >= 0.0f && rate < 1e30f)) return false;
  if (!mask.Valid()) return false;
  RestoreClean(state);  // a perturbation is taken back with the settings it was made with
  Settings(GetSession(state))[index] = Setting{sigma, rate, mask};
  return true;
}

bool ConfigureNode(const ParameterState& state, int32_t node, int32_t sigma, int32_t block,
                   float rate, Mask mask) {
  if (node < 0 || node >= state.options->node_count) return false;
  if (sigma < 0 || sigma > 127 || block < 0 || !(rate >= 0.0f && rate < 1e30f)) return false;
  if (!mask.Valid()) return false;
  NodeSettings(GetSession(state))[node] = NodeSetting{sigma, block, rate, mask};
  return true;
}

bool WriteParameter(const ParameterState& state, int32_t index, const void* data, int32_t count) {
  ParameterView view;
  if (!GetParameter(state, index, &view) || count != view.count) return false;
  if (view.entry->kind == kWeights &&
      !Reversible(static_cast<const int8_t*>(data), view, kMaxWeight)) {
    return false;
  }
  if (view.entry->kind == kBias && !Reversible(static_cast<const int32_t*>(data), view, kMaxBias)) {
    return false;
  }
  RestoreClean(state);
  std::memcpy(view.data, data, static_cast<size_t>(count) * ElementBytes(view.entry->kind));
  return true;
}

Registration ParameterOp() { return MakeRegistration(Init, Prepare, Invoke); }

}  // namespace tflm_zo
