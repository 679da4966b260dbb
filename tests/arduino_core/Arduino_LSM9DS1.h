// SPDX-License-Identifier: Apache-2.0
#ifndef TFLM_ZO_TESTS_ARDUINO_LSM9DS1_H_
#define TFLM_ZO_TESTS_ARDUINO_LSM9DS1_H_

class MotionSensorStub {
 public:
  int begin();
  int accelerationAvailable();
  int readAcceleration(float& x, float& y, float& z);
};

extern MotionSensorStub IMU;

#endif  // TFLM_ZO_TESTS_ARDUINO_LSM9DS1_H_
