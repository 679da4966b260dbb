// SPDX-License-Identifier: Apache-2.0
//
// The app on the host: a file descriptor is its serial line, memory its flash, callbacks run the
// model.
#include "host_app.h"

#include <poll.h>
#include <unistd.h>

#include <cstring>
#include <ctime>
#include <new>

#include "training_app.h"

namespace {

using tflm_zo::LedState;
using tflm_zo::TensorMemory;

class HostRuntime final : public tflm_zo::ModelRuntime {
 public:
  template <int kInputs, int kOutputs>
  HostRuntime(const TflmZoTensor (&inputs)[kInputs], const TflmZoTensor (&outputs)[kOutputs],
              TflmZoInvoke invoke, const void* state)
      : inputs_(inputs),
        input_count_(kInputs),
        outputs_(outputs),
        output_count_(kOutputs),
        invoke_(invoke),
        state_(state) {}
  TensorMemory Input(int index) override { return Memory(inputs_, input_count_, index); }
  TensorMemory Output(int index) override { return Memory(outputs_, output_count_, index); }
  bool Invoke() override { return invoke_() != 0; }
  uint64_t StateAddress(uint64_t) override { return reinterpret_cast<uintptr_t>(state_); }

 private:
  static TensorMemory Memory(const TflmZoTensor* tensors, int count, int index) {
    if (index < 0 || index >= count) return {nullptr, 0, false};
    return {tensors[index].data, tensors[index].bytes, tensors[index].is_int8 != 0};
  }

  const TflmZoTensor* inputs_;
  int input_count_;
  const TflmZoTensor* outputs_;
  int output_count_;
  TflmZoInvoke invoke_;
  const void* state_;
};

class HostSerial final : public tflm_zo::SerialPort {
 public:
  explicit HostSerial(int line) : line_(line) {}

  uint32_t Read(uint8_t* data, uint32_t capacity) override {
    const ssize_t count = read(line_, data, capacity);
    return count > 0 ? static_cast<uint32_t>(count) : 0;
  }

  bool Write(const uint8_t* data, uint32_t size) override {
    while (size != 0) {
      const ssize_t count = write(line_, data, size);
      if (count > 0) {
        data += count;
        size -= static_cast<uint32_t>(count);
        continue;
      }
      // The line is full. If nobody reads for this long, nobody is there.
      constexpr int kPatienceMs = 200;
      pollfd full{line_, POLLOUT, 0};
      if (poll(&full, 1, kPatienceMs) <= 0) return false;
    }
    return true;
  }

 private:
  int line_;
};

// NOR flash in memory that the caller keeps, in a file for example.
class HostFlash final : public tflm_zo::Flash {
 public:
  explicit HostFlash(const TflmZoHostConfig& config) : config_(config) {}
  uint32_t size() const override { return config_.flash_bytes; }
  uint32_t page_size() const override { return config_.page_bytes; }
  uint32_t write_granularity() const override { return 4; }

  bool ErasePage(uint32_t address) override {
    if (!Inside(address, config_.page_bytes)) return false;
    std::memset(config_.flash + address, 0xFF, config_.page_bytes);
    return true;
  }

  bool Write(uint32_t address, const void* data, uint32_t bytes) override {
    if (!Inside(address, bytes)) return false;
    const auto* from = static_cast<const uint8_t*>(data);
    for (uint32_t i = 0; i < bytes; ++i) {
      config_.flash[address + i] = static_cast<uint8_t>(config_.flash[address + i] & from[i]);
    }
    return true;
  }

  bool Read(uint32_t address, void* data, uint32_t bytes) const override {
    if (!Inside(address, bytes)) return false;
    std::memcpy(data, config_.flash + address, bytes);
    return true;
  }

 private:
  bool Inside(uint32_t address, uint32_t bytes) const {
    return address <= config_.flash_bytes && bytes <= config_.flash_bytes - address;
  }

  const TflmZoHostConfig& config_;
};

class HostBoard final : public tflm_zo::Board {
 public:
  explicit HostBoard(const TflmZoHostConfig& config)
      : config_(config), serial_(config.line), flash_(config) {}
  tflm_zo::SerialPort& serial() override { return serial_; }
  tflm_zo::Flash& flash() override { return flash_; }
  uint32_t NowMicros() override {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint32_t>(now.tv_sec) * 1000000u + static_cast<uint32_t>(now.tv_nsec / 1000);
  }
  void SetLed(LedState state) override { config_.show(static_cast<int32_t>(state)); }
  void FeedWatchdog() override {}

 private:
  const TflmZoHostConfig& config_;
  HostSerial serial_;
  HostFlash flash_;
};

class HostApp {
 public:
  HostApp(const TflmZoHostConfig& config, uint8_t* frame, uint8_t* samples)
      : config_(config),
        rest_(config_.inputs, config_.outputs, config_.invoke, config_.state),
        frozen_(config_.frozen_input, config_.frozen_outputs, config_.invoke_frozen, nullptr),
        board_(config_),
        frame_(frame),
        samples_(samples),
        app_(&board_, {&rest_, config.frozen_input[0].data == nullptr ? nullptr : &frozen_},
             {config.model, config.model_bytes, config.model_hash},
             {frame, config.frame_bytes, samples, config.batch_bytes, config.sums,
              config.channels}) {}
  ~HostApp() {
    delete[] frame_;
    delete[] samples_;
  }
  HostApp(const HostApp&) = delete;
  HostApp& operator=(const HostApp&) = delete;

  tflm_zo::TrainingApp* app() { return &app_; }

 private:
  TflmZoHostConfig config_;
  HostRuntime rest_;
  HostRuntime frozen_;
  HostBoard board_;
  uint8_t* frame_;
  uint8_t* samples_;
  tflm_zo::TrainingApp app_;
};

}  // namespace

void* tflm_zo_app_new(const TflmZoHostConfig* config) {
  auto* frame = new (std::nothrow) uint8_t[config->frame_bytes];
  auto* samples = new (std::nothrow) uint8_t[config->batch_bytes];
  HostApp* app = frame != nullptr && samples != nullptr ? new (std::nothrow)
                                                              HostApp(*config, frame, samples)
                                                        : nullptr;
  if (app == nullptr) {
    delete[] frame;
    delete[] samples;
  }
  return app;
}

void tflm_zo_app_free(void* app) { delete static_cast<HostApp*>(app); }

int32_t tflm_zo_app_start(void* app) {
  return static_cast<int32_t>(static_cast<HostApp*>(app)->app()->Start());
}

int32_t tflm_zo_app_model_status(void* app) {
  return static_cast<int32_t>(static_cast<HostApp*>(app)->app()->model_status());
}

int32_t tflm_zo_app_poll(void* app) { return static_cast<HostApp*>(app)->app()->Poll() ? 1 : 0; }
