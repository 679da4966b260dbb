// SPDX-License-Identifier: Apache-2.0
//
// The Arduino Nano 33 BLE (nRF52840) as a Board: USB serial, checkpoints in the last 64 KB of
// flash, watchdog, RGB LED. Registers as in Nordic's "nRF52840 Product Specification", chapters
// NVMC and WDT; nothing but Arduino's core is needed.
#ifndef TFLM_ZO_MICRO_APP_NANO33BLE_H_
#define TFLM_ZO_MICRO_APP_NANO33BLE_H_

#if defined(ARDUINO_ARDUINO_NANO33BLE)

#include <Arduino.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "hal.h"

namespace tflm_zo {

constexpr uint32_t kNano33BleFlashBytes = 1024 * 1024;
constexpr uint32_t kNano33BleCheckpointBytes = 64 * 1024;  // at the end of the flash

inline volatile uint32_t& Register(uintptr_t address) {
  return *reinterpret_cast<volatile uint32_t*>(address);
}

class UsbSerial final : public SerialPort {
 public:
  uint32_t Read(uint8_t* data, uint32_t capacity) override {
    uint32_t count = 0;
    while (count < capacity && Serial.available() > 0) {
      data[count++] = static_cast<uint8_t>(Serial.read());
    }
    return count;
  }
  bool Write(const uint8_t* data, uint32_t size) override {
    return Serial.write(data, size) == size;
  }
};

// 60 s: longer than any forward pass and than a page erase, short enough to come back by itself.
// Once started it cannot be stopped.
class Nrf52840Watchdog {
 public:
  void Start() {
    constexpr uint32_t kTicksPerSecond = 32768;
    Register(kBase + 0x504) = 60 * kTicksPerSecond;  // reload value
    Register(kBase + 0x508) = 1;                     // reload request 0
    Register(kBase + 0x50C) = 1;                     // run during sleep, pause in the debugger
    Register(kBase + 0x000) = 1;                     // start
  }
  void Feed() { Register(kBase + 0x600) = 0x6E524635u; }

 private:
  static constexpr uintptr_t kBase = 0x40010000;
};

// Symbols of the core's linker script: where the program's code ends in flash, and the variables
// whose initial values follow it there. By names of our own, since the core declares some too.
extern const uint8_t kCodeEnd[] __asm__("__etext");
extern const uint8_t kVariablesStart[] __asm__("__data_start__");
extern const uint8_t kVariablesEnd[] __asm__("__data_end__");

// The last 16 pages of the flash. Bluetooth must be off: its radio cannot wait while the CPU stands
// still for an erase.
class Nrf52840Flash final : public Flash {
 public:
  explicit Nrf52840Flash(Nrf52840Watchdog* watchdog) : watchdog_(watchdog) {}

  // Whether the program ends before these pages. If not, nothing is erased or written.
  bool is_free() const {
    const auto address = [](const uint8_t* symbol) { return reinterpret_cast<uintptr_t>(symbol); };
    const uintptr_t variables = address(kVariablesEnd) - address(kVariablesStart);
    return address(kCodeEnd) + variables <= kStart;
  }

  uint32_t size() const override { return kNano33BleCheckpointBytes; }
  uint32_t page_size() const override { return 4096; }
  uint32_t write_granularity() const override { return 4; }

  bool ErasePage(uint32_t address) override {
    if (!is_free() || address >= size() || address % page_size() != 0) return false;
    watchdog_->Feed();
    Register(kController + kConfig) = kErase;
    Wait();
    Register(kController + kErasePage) = static_cast<uint32_t>(kStart + address);
    Wait();
    Register(kController + kConfig) = kReadOnly;
    Wait();
    return true;
  }

  bool Write(uint32_t address, const void* data, uint32_t bytes) override {
    if (!is_free() || !Inside(address, bytes) || address % 4 != 0 || bytes % 4 != 0) return false;
    watchdog_->Feed();
    Register(kController + kConfig) = kWrite;
    Wait();
    const auto* from = static_cast<const uint8_t*>(data);
    for (uint32_t i = 0; i < bytes; i += 4) {
      uint32_t word;
      std::memcpy(&word, from + i, sizeof(word));
      Register(kStart + address + i) = word;
      Wait();
    }
    Register(kController + kConfig) = kReadOnly;
    Wait();
    return true;
  }

  bool Read(uint32_t address, void* data, uint32_t bytes) const override {
    if (!Inside(address, bytes)) return false;
    std::memcpy(data, reinterpret_cast<const void*>(kStart + address), bytes);
    return true;
  }

 private:
  static constexpr uintptr_t kStart = kNano33BleFlashBytes - kNano33BleCheckpointBytes;
  static constexpr uintptr_t kController = 0x4001E000;
  static constexpr uintptr_t kReady = 0x400;
  static constexpr uintptr_t kConfig = 0x504;
  static constexpr uintptr_t kErasePage = 0x508;
  static constexpr uint32_t kReadOnly = 0;
  static constexpr uint32_t kWrite = 1;
  static constexpr uint32_t kErase = 2;

  bool Inside(uint32_t address, uint32_t bytes) const {
    return address <= size() && bytes <= size() - address;
  }
  static void Wait() {
    while (Register(kController + kReady) == 0) {
    }
  }

  Nrf52840Watchdog* watchdog_;
};

// LED: green idle, blue at work, white saving, red refused.
class Nano33Ble final : public Board {
 public:
  // Call in setup(), after Serial.begin.
  void Begin() {
    for (const int pin : {LEDR, LEDG, LEDB}) pinMode(pin, OUTPUT);
    SetLed(LedState::kIdle);
    watchdog_.Start();
  }

  // Why a program that keeps checkpoints must not run, or nullptr.
  const char* Fault() const {
    return flash_.is_free() ? nullptr
                            : "the program reaches into the last 64 KB of flash, which are for "
                              "checkpoints: export a smaller model";
  }

  SerialPort& serial() override { return serial_; }
  Flash& flash() override { return flash_; }
  uint32_t NowMicros() override { return static_cast<uint32_t>(micros()); }
  void FeedWatchdog() override { watchdog_.Feed(); }

  void SetLed(LedState state) override {
    const bool saving = state == LedState::kSaving;
    const bool working = state == LedState::kInferring || state == LedState::kTraining;
    // The LEDs light at a low level.
    digitalWrite(LEDR, state == LedState::kError || saving ? LOW : HIGH);
    digitalWrite(LEDG, state == LedState::kIdle || saving ? LOW : HIGH);
    digitalWrite(LEDB, working || saving ? LOW : HIGH);
  }

 private:
  UsbSerial serial_;
  Nrf52840Watchdog watchdog_;
  Nrf52840Flash flash_{&watchdog_};
};

}  // namespace tflm_zo

#endif  // ARDUINO_ARDUINO_NANO33BLE

#endif  // TFLM_ZO_MICRO_APP_NANO33BLE_H_
