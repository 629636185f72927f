// The loops that every instruction set runs, written over the vector operations of an `Arithmetic`-like policy P.
// Included once by each instruction set, after its target pragma; hence everything lives in an anonymous namespace.
//
// A policy has: the types Activation, Expanded (a weight in scratch space), Vector (of sums), Operand; kStep (inputs in
// a vector), kTileRows, kExpandFrom (rows that make it pay to expand weights first), for integers kWeightShift (what
// the kernel adds to each weight); zero(), weights(pointer), activations(pointer), multiply_add(sum, weights,
// activations) and finish(four sums, rows, row) -> four floats.
//
// Batch invariance: whatever the tile, one (row, output) pair has one accumulator, fed in the order of the inputs and
// reduced by the same instructions. So the blocking never changes a bit of the result.
#pragma once

#include <emmintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels.h"

// Loops over a tile must unroll wholly, or its sums live in memory instead of registers.
#define UNROLL _Pragma("GCC unroll 8")

namespace {

using posttrain::kTileOutputs;
using posttrain::Layer;
using posttrain::Rows;

constexpr int64_t kPanelBytes = 192 * 1024;  // activations that stay in a core's second-level cache while weights pass

template <class P, int R, class W>
inline void tile(const Rows& rows, int64_t row, const W* const* weight, int64_t inputs, __m128 scale, __m128 bias,
                 float* y, int64_t outputs, int64_t width) {
    const auto* x = static_cast<const typename P::Activation*>(rows.values) + row * rows.stride;
    typename P::Vector sum[R][kTileOutputs];
    UNROLL
    for (int r = 0; r < R; ++r)
        UNROLL
        for (int c = 0; c < kTileOutputs; ++c) sum[r][c] = P::zero();

    int64_t k = 0;
    for (; k + P::kStep <= inputs; k += P::kStep) {
        typename P::Operand activation[R];
        UNROLL
        for (int r = 0; r < R; ++r) activation[r] = P::activations(x + r * rows.stride + k);
        UNROLL
        for (int c = 0; c < kTileOutputs; ++c) {
            const auto w = P::weights(weight[c] + k);
            UNROLL
            for (int r = 0; r < R; ++r) sum[r][c] = P::multiply_add(sum[r][c], w, activation[r]);
        }
    }
    if (k < inputs) {  // the activations are padded with zeros, the weights are not: reading on would leave the matrix
        UNROLL
        for (int c = 0; c < kTileOutputs; ++c) {
            W last[P::kStep] = {};
            std::memcpy(last, weight[c] + k, (inputs - k) * sizeof(W));
            const auto w = P::weights(last);
            UNROLL
            for (int r = 0; r < R; ++r)
                sum[r][c] = P::multiply_add(sum[r][c], w, P::activations(x + r * rows.stride + k));
        }
    }

    UNROLL
    for (int r = 0; r < R; ++r) {
        __m128 value = P::finish(sum[r][0], sum[r][1], sum[r][2], sum[r][3], rows, row + r);
        value = _mm_add_ps(_mm_mul_ps(value, scale), bias);
        float* target = y + (row + r) * outputs;
        if (width == kTileOutputs) {
            _mm_storeu_ps(target, value);
        } else {
            float four[kTileOutputs];
            _mm_storeu_ps(four, value);
            std::memcpy(target, four, width * sizeof(float));
        }
    }
}

// Rows [row, end) against four outputs, in tiles of at most R rows.
template <class P, int R, class W>
inline void column(const Rows& rows, int64_t row, int64_t end, const W* const* weight, int64_t inputs, __m128 scale,
                   __m128 bias, float* y, int64_t outputs, int64_t width) {
    for (; row + R <= end; row += R) tile<P, R, W>(rows, row, weight, inputs, scale, bias, y, outputs, width);
    if constexpr (R > 1) {
        if (row < end) column<P, R - 1, W>(rows, row, end, weight, inputs, scale, bias, y, outputs, width);
    }
}

inline __m128 four(const float* values, int64_t first, int64_t width) {
    float padded[kTileOutputs] = {};
    if (values) std::memcpy(padded, values + first, width * sizeof(float));
    return _mm_loadu_ps(padded);
}

template <class P>
void compute_outputs(const Rows& rows, const Layer& layer, int64_t first, int64_t last, float* y, void* scratch) {
    using Expanded = typename P::Expanded;
    const int64_t inputs = layer.inputs;
    const int64_t fitting = kPanelBytes / (rows.stride * static_cast<int64_t>(sizeof(typename P::Activation)) + 1);
    const int64_t panel = std::max<int64_t>(fitting / P::kTileRows, 4) * P::kTileRows;
    const int64_t expanded_stride = (inputs + posttrain::kPadding - 1) / posttrain::kPadding * posttrain::kPadding;

    for (int64_t row = 0; row < rows.count; row += panel) {
        const int64_t end = std::min(rows.count, row + panel);
        for (int64_t output = first; output < last; output += kTileOutputs) {
            const int64_t width = std::min(kTileOutputs, last - output);
            const __m128 scale = four(layer.scale, output, width);
            const __m128 bias = four(layer.bias, output, width);
            const int8_t* weight[kTileOutputs];  // beyond the last output: that output again, and not stored
            for (int64_t c = 0; c < kTileOutputs; ++c)
                weight[c] = layer.weight + (output + std::min(c, width - 1)) * inputs;

            if (end - row < P::kExpandFrom) {
                column<P, P::kTileRows, int8_t>(rows, row, end, weight, inputs, scale, bias, y + output, layer.outputs,
                                                width);
                continue;
            }
            const Expanded* expanded[kTileOutputs];  // converted once for all rows of the panel; first-level cache
            for (int64_t c = 0; c < kTileOutputs; ++c) {
                Expanded* target = static_cast<Expanded*>(scratch) + c * expanded_stride;
                for (int64_t k = 0; k < inputs; ++k) target[k] = weight[c][k];
                expanded[c] = target;
            }
            column<P, P::kTileRows, Expanded>(rows, row, end, expanded, inputs, scale, bias, y + output, layer.outputs,
                                              width);
        }
    }
}

// Rounds to nearest, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no room for a fraction.
inline float nearest(float x) {
    constexpr float shift = 12582912.0f;
    return (x + shift) - shift;
}

// `given` is the scale to use, and what it can't reach is clamped; with 0 the largest value decides.
template <class Integer>
inline int32_t quantize_row(const float* x, int64_t inputs, Integer* values, float* scale, float given) {
    constexpr int32_t infinity = 0x7f800000;
    int32_t largest = 0;  // |x| compared as bits: monotonic, and NaN comes out above infinity
    for (int64_t k = 0; k < inputs; ++k) {
        int32_t bits;
        std::memcpy(&bits, x + k, sizeof bits);
        largest = std::max(largest, bits & 0x7fffffff);
    }
    float absmax;
    std::memcpy(&absmax, &largest, sizeof absmax);
    float divisor = given > 0.0f ? given : absmax / 127.0f;
    if (largest >= infinity) {  // NaN scale: every output of this row becomes NaN instead of a plausible number
        const int32_t nan = 0x7fc00000;
        std::memcpy(scale, &nan, sizeof nan);
        std::fill(values, values + inputs, Integer{0});
        return 0;
    }
    if (divisor == 0.0f) divisor = 1.0f;  // a row of zeros (or of numbers below every scale)
    *scale = divisor;
    int32_t sum = 0;
    for (int64_t k = 0; k < inputs; ++k) {
        float value = nearest(std::min(std::max(x[k] / divisor, -127.0f), 127.0f));
        const auto integer = static_cast<int32_t>(value);
        sum += integer;
        values[k] = static_cast<Integer>(integer);
    }
    return sum;
}

template <class P>
void quantize_padded(const float* x, int64_t inputs, int64_t padded, void* values, float* scale, int32_t* offset) {
    auto* target = static_cast<typename P::Activation*>(values);
    *offset = P::kWeightShift * quantize_row(x, inputs, target, scale, *scale);
    std::fill(target + inputs, target + padded, typename P::Activation{0});
}

inline void quantize_int8(const float* x, int64_t inputs, int8_t* values, float* scale) {
    quantize_row(x, inputs, values, scale, 0.0f);
}

template <class P>
constexpr posttrain::Arithmetic arithmetic() {
    return {sizeof(typename P::Activation), sizeof(typename P::Expanded), P::kStep, compute_outputs<P>};
}

// Four integer sums of one row to real numbers: minus the row's offset, times the row's scale.
inline __m128 to_real(__m128i sums, const Rows& rows, int64_t row) {
    const __m128i exact = _mm_sub_epi32(sums, _mm_set1_epi32(rows.offset[row]));
    return _mm_mul_ps(_mm_cvtepi32_ps(exact), _mm_set1_ps(rows.scale[row]));
}

// [a0 a1 a2 a3], [b…], [c…], [d…] -> [sum a, sum b, sum c, sum d]
inline __m128i add_across(__m128i a, __m128i b, __m128i c, __m128i d) {
    const __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
    const __m128i cd = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
    return _mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
}

inline __m128 add_across(__m128 a, __m128 b, __m128 c, __m128 d) {
    const __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    const __m128 cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

}  // namespace
