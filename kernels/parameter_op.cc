// SPDX-License-Identifier: Apache-2.0
#include "parameter_op.h"

#include <cstring>

#include "momentum.h"
#include "parameter_perturbation.h"
#include "parameter_state.h"
#include "tensor_check.h"
#include "weight_step.h"

namespace tflm_zo {
namespace {

static_assert(sizeof(ParameterState) == kParameterStateWords * sizeof(void*), "see parameter_op.h");

// Fills the state from the custom options, or leaves options null if they are not ours, or cut
// short.
void* Init(Context* context, const char* buffer, size_t length) {
  auto* state = static_cast<ParameterState*>(AllocatePersistent(context, sizeof(ParameterState)));
  if (state == nullptr) return nullptr;
  const auto* options = reinterpret_cast<const ParameterOptions*>(buffer);
  const bool valid =
      CanHold<ParameterOptions>(buffer, length) && options->magic == kParameterOptionsMagic &&
      options->version == kOptionsVersion && options->parameter_count >= 0 &&
      options->node_count >= 0 && options->factor_count >= 0 && options->reference_channels >= 0 &&
      options->state_count >= 0 && length >= OptionsBytes(options);
  state->options = valid ? options : nullptr;
  state->context = context;
  state->node = nullptr;
  return state;
}

// Behind the session: of all parameters and nodes.
int64_t SettingBytes(const ParameterOptions& options) {
  return options.parameter_count * int64_t{sizeof(Setting)} +
         options.node_count * int64_t{sizeof(NodeSetting)};
}

bool IsOfKind(const EvalTensor* tensor, int32_t kind, int32_t count) {
  switch (kind) {
    case kWeights:
    case kResidual:
      return IsInt8Of(tensor, count);
    case kBias:
      return IsInt32Of(tensor, count);
    case kMeanPrediction:
      return IsFloatOf(tensor, count);
    default:
      return false;
  }
}

bool EntryMatchesTensors(Context* context, const Node* node, const ParameterOptions& options,
                         const ParameterEntry& entry) {
  const EvalTensor* variable = InputTensor(context, node, entry.variable_input);
  const int32_t count = variable == nullptr ? -1 : ElementCount(variable);
  if (!IsOfKind(variable, entry.kind, count)) return false;
  if (entry.kind == kResidual || entry.kind == kMeanPrediction) {
    return entry.initial_input < 0 && entry.moments_input < 0;
  }
  if (!IsOfKind(InputTensor(context, node, entry.initial_input), entry.kind, count)) return false;
  if (entry.moments_input >= 0 &&
      !IsFloatOf(InputTensor(context, node, entry.moments_input), Product(count, kMomentumWords))) {
    return false;
  }
  return entry.channels > 0 && entry.channel_stride > 0 &&
         Within(entry.headroom, 0, entry.kind == kWeights ? kMaxWeight : kMaxBias) &&
         (entry.factor_count == 1 || entry.factor_count == entry.channels) &&
         entry.factor_count <= options.factor_count &&
         Within(entry.factor_offset, 0, options.factor_count - entry.factor_count);
}

bool StatesMatchTensors(Context* context, const Node* node, const ParameterOptions& options) {
  for (int32_t i = 0; i < options.state_count; ++i) {
    const StateEntry& state = States(&options)[i];
    const EvalTensor* tensor = InputTensor(context, node, state.input);
    if (tensor == nullptr) return false;
    const int32_t bytes = Product(ElementCount(tensor), ElementSize(tensor));
    if (bytes < 0 || state.bytes != bytes) return false;
  }
  return true;
}

// Whether a parameter has one value for each channel of the reference.
bool MatchesReference(const ParameterState& state, int32_t index, ParameterKind kind) {
  ParameterView view;
  return GetParameter(state, index, &view) && view.entry->kind == kind &&
         view.count == state.options->reference_channels;
}

Status Prepare(Context* context, Node* node) {
  auto* state = static_cast<ParameterState*>(node->user_data);
  if (state == nullptr || state->options == nullptr) {
    TFLM_ZO_REPORT(context,
                   "%s: options of another version, or damaged; patch the model again with "
                   "this tflm-zo",
                   kParameterOpName);
    return kError;
  }
  state->node = node;
  const ParameterOptions& options = *state->options;
  const int32_t setting_words = SettingWords(InputTensor(context, node, kParameterSession));
  if (!IsInt32Of(InputTensor(context, node, kParameterCommand), kCommandWords) ||
      setting_words < 0 || setting_words * int64_t{sizeof(int32_t)} != SettingBytes(options) ||
      !InputsDiffer(node) || !NoneNegative(Factors(&options), options.factor_count)) {
    TFLM_ZO_REPORT(context,
                   "%s: options do not match command or session tensor; patch the model again",
                   kParameterOpName);
    return kError;
  }
  for (int32_t p = 0; p < options.parameter_count; ++p) {
    if (!EntryMatchesTensors(context, node, options, Entries(&options)[p])) {
      TFLM_ZO_REPORT(context, "%s: parameter %d does not match its tensors; patch the model again",
                     kParameterOpName, static_cast<int>(p));
      return kError;
    }
  }
  if (!StatesMatchTensors(context, node, options)) {
    TFLM_ZO_REPORT(context, "%s: a state does not match its tensor; patch the model again",
                   kParameterOpName);
    return kError;
  }
  if (options.reference_channels > 0 &&
      (!IsZeroPoint(options.reference_zero_point) ||
       !MatchesReference(*state, options.gain_parameter, kWeights) ||
       !MatchesReference(*state, options.offset_parameter, kBias))) {
    TFLM_ZO_REPORT(context, "%s: the reference does not match the adapter; patch the model again",
                   kParameterOpName);
    return kError;
  }
  return kOk;
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

// Every pass is to compute from its own sample alone, as the first one after AllocateTensors does.
void ClearStates(const ParameterState& state) {
  for (int32_t i = 0; i < state.options->state_count; ++i) {
    const StateEntry& entry = States(state.options)[i];
    std::memset(TensorData(InputTensor(state.context, state.node, entry.input)), entry.fill,
                static_cast<size_t>(entry.bytes));
  }
}

// Called in the first pass after AllocateTensors or Reset, which zero all variable tensors.
void StartSession(const ParameterState& state) {
  Session* session = GetSession(state);
  std::memset(session, 0, sizeof(Session) + static_cast<size_t>(SettingBytes(*state.options)));
  session->magic = kSessionMagic;
  session->parameter_count = state.options->parameter_count;
  const auto address = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(&state));
  session->state_address[0] = static_cast<uint32_t>(address);
  session->state_address[1] = static_cast<uint32_t>(address >> 32);
  CopyInitialWeights(state);
}

// Replaces the losses of the queries by slopes, the factors of their directions in the gradient.
// The losses are not needed any more: the table is cleared before the next queries.
void LossesToSlopes(Session* session, const Command& command) {
  const bool forward = (command.actions & kForwardDifference) != 0;
  for (int32_t q = 0; q < command.update_queries; ++q) {
    const float loss = session->losses[q];
    session->losses[q] = (forward ? loss - session->base_loss : loss) * command.update_scale;
  }
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

// What is wrong with a command, or nullptr.
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

// Takes the command from its tensor, so that it is carried out once even if the caller sets no
// other before the next pass. Without the magic word the pass is plain inference.
Command TakeCommand(const ParameterState& state) {
  void* data = TensorData(InputTensor(state.context, state.node, kParameterCommand));
  Command command;
  std::memcpy(&command, data, sizeof(command));
  if (command.magic != kCommandMagic) return Command{};
  std::memset(data, 0, sizeof(command.magic));
  return command;
}

// Tells the ops that follow in this pass what it does.
void PublishPass(const Command& command, Session* session) {
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
}

Status Invoke(Context* context, Node* node) {
  const auto& state = *static_cast<const ParameterState*>(node->user_data);
  Session* session = GetSession(state);
  const ParameterOptions& options = *state.options;
  const auto setting_words = static_cast<int32_t>(SettingBytes(options) / sizeof(int32_t));
  if (session->parameter_count != options.parameter_count ||
      !IsSound(*session, setting_words, options.node_count)) {
    StartSession(state);
  }

  const Command command = TakeCommand(state);
  session->actions = 0;
  const char* fault = FaultOf(command, options, Settings(session));
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
  SetPerturbation(state, command);
  ClearStates(state);
  PublishPass(command, session);
  return kOk;
}

}  // namespace

Registration ParameterOp() { return MakeRegistration(Init, Prepare, Invoke); }

}  // namespace tflm_zo
