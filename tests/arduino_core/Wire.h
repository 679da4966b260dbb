// SPDX-License-Identifier: Apache-2.0
#ifndef TFLM_ZO_TESTS_WIRE_H_
#define TFLM_ZO_TESTS_WIRE_H_

class TwoWire;

#endif  // TFLM_ZO_TESTS_WIRE_H_
