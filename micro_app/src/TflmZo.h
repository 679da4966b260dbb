// SPDX-License-Identifier: Apache-2.0
//
// All of tflm-zo for a sketch: the training ops, the trainer, TFLM's interpreter as its engine, the
// app. In an Arduino library and in an exported sketch the sources lie in tflm_zo/ beside this
// file.
#ifndef TFLM_ZO_H_
#define TFLM_ZO_H_

#if !__has_include("tensorflow/lite/micro/micro_interpreter.h")
#error "Include the header of the TFLM library before TflmZo.h: by it Arduino finds the library."
#endif

#include "tflm_zo/exact_rates.h"
#include "tflm_zo/loss_op.h"
#include "tflm_zo/model_state.h"
#include "tflm_zo/nano33ble.h"
#include "tflm_zo/node_op.h"
#include "tflm_zo/on_device_trainer.h"
#include "tflm_zo/parameter_op.h"
#include "tflm_zo/parameter_state.h"
#include "tflm_zo/recalibrate.h"
#include "tflm_zo/sample_batch.h"
#include "tflm_zo/tflm_runtime.h"
#include "tflm_zo/training_app.h"
#include "tflm_zo/training_stream.h"

#endif  // TFLM_ZO_H_
