// SPDX-License-Identifier: Apache-2.0
#ifndef TFLM_ZO_SIM_SIM_HANDLE_H_
#define TFLM_ZO_SIM_SIM_HANDLE_H_

#include <string>

#include "graph.h"
#include "sim_api.h"

// What a handle of the C interface stands for.
struct TflmZoSim {
  tflm_zo::sim::Graph graph;
  std::string error;
};

#endif  // TFLM_ZO_SIM_SIM_HANDLE_H_
