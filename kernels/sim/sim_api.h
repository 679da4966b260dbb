// SPDX-License-Identifier: Apache-2.0
//
// C interface of the simulator's forward engine: int8 inference on batches, one thread, the same
// results to the bit as TFLite Micro's reference kernels. Host only.
//
// Use: create; add the layers in the order in which they run; finish; then run as often as needed;
// destroy. A tensor is named by its index in `tensor_bytes`, a layer by the order of its addition,
// from 0. Functions that return int32_t return 0, or 1 after an error that tflm_zo_sim_error
// explains. An engine may be used by one thread at a time; engines are independent of each other.
#ifndef TFLM_ZO_SIM_API_H_
#define TFLM_ZO_SIM_API_H_

#include <stdint.h>

#if defined(_WIN32)
#define TFLM_ZO_SIM_EXPORT __declspec(dllexport)
#else
#define TFLM_ZO_SIM_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct TflmZoSim TflmZoSim;

// A window that slides over an image in NHWC layout. Padding is at the top and left; at the bottom
// and right the image is extended as far as the last window reaches.
typedef struct TflmZoSimWindow {
  int32_t input_height;
  int32_t input_width;
  int32_t channels;
  int32_t kernel_height;
  int32_t kernel_width;
  int32_t stride_height;
  int32_t stride_width;
  int32_t dilation_height;
  int32_t dilation_width;
  int32_t pad_top;
  int32_t pad_left;
  int32_t output_height;
  int32_t output_width;
} TflmZoSimWindow;

// Quantization of a layer with weights. The arrays have one element per output channel (see
// Requantization in requantize.h) and are copied.
typedef struct TflmZoSimQuantization {
  const int32_t* multiplier;
  const int32_t* left_shift;
  const int32_t* right_shift;
  int32_t input_zero_point;
  int32_t output_zero_point;
  int32_t activation_min;
  int32_t activation_max;
} TflmZoSimQuantization;

// Rescaling of ADD and SUB: each input to twice the larger of their scales, the sum to the
// output's. So one of the inputs has multiplier 2^30 and no shift.
typedef struct TflmZoSimAddParams {
  int32_t first_zero_point;
  int32_t first_multiplier;
  int32_t first_right_shift;
  int32_t second_zero_point;
  int32_t second_multiplier;
  int32_t second_right_shift;
  int32_t output_multiplier;
  int32_t output_right_shift;
  int32_t output_zero_point;
  int32_t activation_min;
  int32_t activation_max;
} TflmZoSimAddParams;

// Geometry and rescaling of MEAN. The input is int8 [outer][count][inner]; means are taken over
// `count`. The multiplier contains 1 / count.
typedef struct TflmZoSimMeanParams {
  int32_t outer;
  int32_t count;
  int32_t inner;
  int32_t input_zero_point;
  int32_t multiplier;
  int32_t left_shift;
  int32_t right_shift;
  int32_t output_zero_point;
} TflmZoSimMeanParams;

// Rescaling of MUL.
typedef struct TflmZoSimProductParams {
  int32_t first_zero_point;
  int32_t second_zero_point;
  int32_t multiplier;
  int32_t left_shift;
  int32_t right_shift;
  int32_t output_zero_point;
  int32_t activation_min;
  int32_t activation_max;
} TflmZoSimProductParams;

// An operand of an elementwise operator: a tensor, or -1 and a `constant`. Output element i of a
// sample takes element places[i] of it, or element i if `places` is null. Arrays are copied. At
// least one operand must be a tensor.
typedef struct TflmZoSimOperand {
  int32_t tensor;
  const int8_t* constant;
  const int32_t* places;
} TflmZoSimOperand;

typedef struct TflmZoSimRequantizeParams {
  int32_t input_zero_point;
  int32_t multiplier;
  int32_t left_shift;
  int32_t right_shift;
  int32_t output_zero_point;
} TflmZoSimRequantizeParams;

// `multiplier` and `left_shift` bring the input to Q4.27; codes that are `radius` or more from its
// zero point give the function's limits. Of LOGISTIC and TANH.
typedef struct TflmZoSimLogisticParams {
  int32_t input_zero_point;
  int32_t radius;
  int32_t multiplier;
  int32_t left_shift;
} TflmZoSimLogisticParams;

// Sizes and rescaling of BATCH_MATMUL.
typedef struct TflmZoSimMatmulParams {
  int32_t batches;
  int32_t rows;
  int32_t columns;
  int32_t depth;
  int32_t left_zero_point;
  int32_t right_zero_point;
  int32_t multiplier;
  int32_t left_shift;
  int32_t right_shift;
  int32_t output_zero_point;
} TflmZoSimMatmulParams;

// Sizes of an LSTM. `cell_clip`: in codes of the cell state, 0 for none.
typedef struct TflmZoSimLstmParams {
  int32_t steps;
  int32_t inputs;
  int32_t units;
  int32_t input_zero_point;
  int32_t hidden_zero_point;
  int32_t cell_clip;
} TflmZoSimLstmParams;

// `tensor_bytes`: size of each tensor for one sample, 0 for those that no layer computes with.
// `instruction_set`: an InstructionSet (kernels.h). Null if this processor lacks it, or without
// memory.
TFLM_ZO_SIM_EXPORT TflmZoSim* tflm_zo_sim_create(const int64_t* tensor_bytes, int32_t tensor_count,
                                                 int32_t instruction_set);
TFLM_ZO_SIM_EXPORT void tflm_zo_sim_destroy(TflmZoSim* sim);

// The message of the last error, "" if there was none; valid until the next call.
TFLM_ZO_SIM_EXPORT const char* tflm_zo_sim_error(const TflmZoSim* sim);

// The instruction set in use, as in tflm_zo_sim_create.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_instruction_set(const TflmZoSim* sim);

// CONV_2D, and FULLY_CONNECTED as a 1x1 convolution over an image of rows x 1. `weights`
// [output_channels][kernel_height][kernel_width][channels / groups] and `bias` [output_channels]
// (null for none) are not copied: they must outlive the engine and may be changed between runs; a
// run finds out whether they were.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_conv(TflmZoSim* sim, int32_t input, int32_t output,
                                                const TflmZoSimWindow* window,
                                                int32_t output_channels, int32_t groups,
                                                const int8_t* weights, const int32_t* bias,
                                                const TflmZoSimQuantization* quantization);

// DEPTHWISE_CONV_2D. `weights` [kernel_height][kernel_width][channels * multiplier] and `bias` as
// for tflm_zo_sim_add_conv.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_depthwise(TflmZoSim* sim, int32_t input, int32_t output,
                                                     const TflmZoSimWindow* window,
                                                     int32_t multiplier, const int8_t* weights,
                                                     const int32_t* bias,
                                                     const TflmZoSimQuantization* quantization);

// AVERAGE_POOL_2D and MAX_POOL_2D; the dilation of `window` must be 1.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_average_pool(TflmZoSim* sim, int32_t input,
                                                        int32_t output,
                                                        const TflmZoSimWindow* window,
                                                        int32_t activation_min,
                                                        int32_t activation_max);
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_max_pool(TflmZoSim* sim, int32_t input, int32_t output,
                                                    const TflmZoSimWindow* window,
                                                    int32_t activation_min, int32_t activation_max);

// MEAN over axes that lie next to each other.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_mean(TflmZoSim* sim, int32_t input, int32_t output,
                                                const TflmZoSimMeanParams* params);

// ADD of two tensors of the same shape.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_add(TflmZoSim* sim, int32_t first, int32_t second,
                                               int32_t output, const TflmZoSimAddParams* params);

// ADD (`subtract` 0) or SUB of two operands, and MUL.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_sum(TflmZoSim* sim, const TflmZoSimOperand* first,
                                               const TflmZoSimOperand* second, int32_t output,
                                               const TflmZoSimAddParams* params, int32_t subtract);
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_product(TflmZoSim* sim, const TflmZoSimOperand* first,
                                                   const TflmZoSimOperand* second, int32_t output,
                                                   const TflmZoSimProductParams* params);

// QUANTIZE of an int8 tensor.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_requantize(TflmZoSim* sim, int32_t input, int32_t output,
                                                      const TflmZoSimRequantizeParams* params);

// LOGISTIC, with output scale 1 / 256 and zero point -128.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_logistic(TflmZoSim* sim, int32_t input, int32_t output,
                                                    const TflmZoSimLogisticParams* params);

// TANH, with output scale 1 / 128 and zero point 0.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_tanh(TflmZoSim* sim, int32_t input, int32_t output,
                                                const TflmZoSimLogisticParams* params);

// Any operator that makes each output code of one input code: `table` has 256 of them, for codes
// from -128 on, and is copied.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_lookup(TflmZoSim* sim, int32_t input, int32_t output,
                                                  const int8_t* table);

// Any operator that makes each output code of two: `table` [256][256], by the codes of the first
// and the second operand from -128 on, is copied.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_pairs(TflmZoSim* sim, const TflmZoSimOperand* first,
                                                 const TflmZoSimOperand* second, int32_t output,
                                                 const int8_t* table);

// Operators that move codes: PAD, CONCATENATION, TRANSPOSE, STRIDED_SLICE and others. places[i] is
// the element that output element i of a sample takes, counted through the inputs' elements one
// input after the other, or -1 for fill[i]. `fill` is null if there is none. Both are copied.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_gather(TflmZoSim* sim, const int32_t* inputs,
                                                  int32_t input_count, int32_t output,
                                                  const int32_t* places, const int8_t* fill);

// REDUCE_MAX (`maximum` 1) and REDUCE_MIN (0): output element i is the largest or smallest of the
// input's elements places[i * count ...]; it is copied.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_extremum(TflmZoSim* sim, int32_t input, int32_t output,
                                                    const int32_t* places, int32_t count,
                                                    int32_t maximum);

// SOFTMAX over rows of `depth`. `multiplier` and `left_shift` bring input differences to Q5.26;
// elements more than -diff_min below the maximum count as zero.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_softmax(TflmZoSim* sim, int32_t input, int32_t output,
                                                   int32_t depth, int32_t multiplier,
                                                   int32_t left_shift, int32_t diff_min);

// BATCH_MATMUL. `left`, by its places, is [batches][rows][depth], `right`
// [batches][columns][depth], the output [batches][rows][columns].
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_matmul(TflmZoSim* sim, const TflmZoSimOperand* left,
                                                  const TflmZoSimOperand* right, int32_t output,
                                                  const TflmZoSimMatmulParams* params);

// TRANSPOSE_CONV. `window`: the input's and output's size are those of the layer, stride and
// padding those of the convolution that it transposes; no dilation. `weights`
// [output_channels][kernel_height][kernel_width][channels] and `bias` (null for none) are copied.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_transpose_conv(
    TflmZoSim* sim, int32_t input, int32_t output, const TflmZoSimWindow* window,
    int32_t output_channels, const int8_t* weights, const int32_t* bias,
    const TflmZoSimQuantization* quantization);

// RESIZE_BILINEAR: output element i of a sample is the mean of the input's elements places[4 i ...]
// with weights[4 i ...], whose sum is 2^20. Both are copied.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_blend(TflmZoSim* sim, int32_t input, int32_t output,
                                                 const int32_t* places, const int32_t* weights);

// UNIDIRECTIONAL_SEQUENCE_LSTM over input [steps][inputs]; the output is [steps][units]. Gates are
// in the order input, forget, cell, output: `weights` [4][units][inputs + units], `bias`
// [4][units]. `rescalings` [11][3] (multiplier, left and right shift): of the sums over inputs and
// over units for each gate, then of the products forget gate by cell, input gate by cell gate,
// output gate by the cell's tanh. `tables` [3][65536] from code -32768 on: the gates' function, the
// cell gate's, that of the cell. All are copied.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_lstm(TflmZoSim* sim, int32_t input, int32_t output,
                                                const TflmZoSimLstmParams* params,
                                                const int8_t* weights, const int32_t* bias,
                                                const int32_t* rescalings, const int16_t* tables);

// RESHAPE, EXPAND_DIMS, SQUEEZE: the output has the bytes of the input.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_add_reshape(TflmZoSim* sim, int32_t input, int32_t output);

// Plans the memory for intermediate tensors; no layer can be added afterwards.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_finish(TflmZoSim* sim);

// Runs layers [first, last) on `samples` samples. bound_tensors[i] is read from or written to
// bound_data[i], int8 [samples][tensor_bytes]; every tensor that these layers read but do not
// compute must be bound, and those that shall be kept. If `accumulators` is not null, it receives
// the int32 accumulators (bias included, before rescaling) of layer `accumulators_layer`, a
// convolution, depthwise convolution or fully connected layer in the range, with as many elements
// as its output.
TFLM_ZO_SIM_EXPORT int32_t tflm_zo_sim_run(TflmZoSim* sim, int32_t first, int32_t last,
                                           int64_t samples, const int32_t* bound_tensors,
                                           int8_t* const* bound_data, int32_t bound_count,
                                           int32_t accumulators_layer, int32_t* accumulators);

#ifdef __cplusplus
}
#endif

#endif  // TFLM_ZO_SIM_API_H_
