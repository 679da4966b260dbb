// SPDX-License-Identifier: Apache-2.0
//
// Learning rates of the layers that are updated in closed form, from what measuring passes report.
// The formula of boards, in single precision from one sample, and of the host, in double precision
// from the means of some; tflm_zo/training/rates.py says where it comes from.
#ifndef TFLM_ZO_KERNELS_EXACT_RATES_H_
#define TFLM_ZO_KERNELS_EXACT_RATES_H_

#include "session.h"

namespace tflm_zo {

template <typename Real>
struct ExactRates {
  Real head;
  Real before_head;
};

// The largest product of rate and kernel for layers before the head, and for perturbed layers, if
// it is `head_limit` for the head. It is smaller, because the kernels of these layers grow while
// they learn; the head's kernel does not.
template <typename Real>
constexpr Real LimitBeforeHead(Real head_limit) {
  return Real(1) / Real(3) * head_limit;
}

// feature_energy and layer_energy: see Report, of a pass that measured the nodes before the head.
// The head's own kernel is 1 + feature_energy, as its bias has an input of 1. A layer_energy of 0:
// there are no such nodes, or the sample's loss has no gradient.
template <typename Real>
constexpr ExactRates<Real> RatesOf(Real head_limit, Real feature_energy, Real layer_energy) {
  const Real head = head_limit / (Real(1) + feature_energy);
  if (!(layer_energy > Real(0))) return {head, head};
  const Real before_head = LimitBeforeHead(head_limit) / layer_energy;
  return {head, before_head < head ? before_head : head};
}

constexpr ExactRates<float> RatesOf(float head_limit, const Report& report) {
  return RatesOf(head_limit, report.feature_energy, report.layer_energy);
}

}  // namespace tflm_zo

#endif  // TFLM_ZO_KERNELS_EXACT_RATES_H_
