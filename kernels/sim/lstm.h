// SPDX-License-Identifier: Apache-2.0
//
// UNIDIRECTIONAL_SEQUENCE_LSTM with int8 input and hidden state and an int16 cell. The state is
// that of a reset model before each sample.
#ifndef TFLM_ZO_SIM_LSTM_H_
#define TFLM_ZO_SIM_LSTM_H_

#include <cstdint>
#include <vector>

#include "layer.h"
#include "sim_api.h"

namespace tflm_zo {
namespace sim {

constexpr int32_t kLstmGates = 4;        // input, forget, cell, output
constexpr int32_t kLstmRescalings = 11;  // see tflm_zo_sim_add_lstm
constexpr int32_t kLstmTables = 3;       // functions of the gates, of the cell gate, of the cell
constexpr int32_t kInt16Codes = 1 << 16;

class LstmLayer : public Layer {
 public:
  // As tflm_zo_sim_add_lstm.
  LstmLayer(const TflmZoSimLstmParams& params, const int8_t* weights, const int32_t* bias,
            const int32_t* rescalings, const int16_t* tables);

  void Run(const LayerIo& io) override;

 private:
  struct Rescaling {
    int32_t multiplier;
    int32_t left_shift;
    int32_t right_shift;
  };

  void Step(const int8_t* input);
  int16_t Gate(int32_t gate, int32_t unit, const int8_t* input) const;
  int16_t Product(int32_t rescaling, int16_t first, int16_t second) const;
  int16_t Lookup(int32_t table, int16_t code) const {
    return tables_[table * kInt16Codes + code + kInt16Codes / 2];
  }

  TflmZoSimLstmParams params_;
  std::vector<int8_t> weights_;
  std::vector<int32_t> bias_;
  std::vector<Rescaling> rescalings_;
  std::vector<int16_t> tables_;
  std::vector<int8_t> hidden_;
  std::vector<int8_t> next_hidden_;
  std::vector<int16_t> cell_;
};

}  // namespace sim
}  // namespace tflm_zo

#endif  // TFLM_ZO_SIM_LSTM_H_
