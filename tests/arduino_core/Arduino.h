// SPDX-License-Identifier: Apache-2.0
//
// As much of Arduino's core as exported sketches and TFLM's Arduino libraries name, so that a
// compiler can check a sketch where no core is installed. Nothing here runs.
#ifndef TFLM_ZO_TESTS_ARDUINO_H_
#define TFLM_ZO_TESTS_ARDUINO_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

constexpr int LOW = 0;
constexpr int HIGH = 1;
constexpr int INPUT = 0;
constexpr int OUTPUT = 1;
constexpr int INPUT_PULLUP = 2;
constexpr int LED_BUILTIN = 13;
constexpr int LEDR = 22;
constexpr int LEDG = 23;
constexpr int LEDB = 24;

using pin_size_t = uint8_t;
constexpr pin_size_t D8 = 8;
constexpr pin_size_t D13 = 13;

enum PinName { P0_27 = 27, P1_2 = 34, P1_11 = 43, P1_12 = 44 };

class SerialStub {
 public:
  void begin(unsigned long baud);
  void setTimeout(unsigned long milliseconds);
  int available();
  int availableForWrite();
  int read();
  int peek();
  void flush();
  size_t readBytes(char* buffer, size_t length);
  size_t readBytes(uint8_t* buffer, size_t length);
  size_t write(uint8_t byte);
  size_t write(const uint8_t* buffer, size_t size);
  template <typename T>
  size_t print(T value);
  template <typename T>
  size_t println(T value);
  size_t println();
  explicit operator bool();
};

extern SerialStub Serial;

void pinMode(int pin, int mode);
void digitalWrite(int pin, int value);
int digitalRead(int pin);
unsigned long millis();
unsigned long micros();
void delay(unsigned long milliseconds);
void delayMicroseconds(unsigned int microseconds);
void yield();

void setup();
void loop();

#endif  // TFLM_ZO_TESTS_ARDUINO_H_
