// Layers of 2 to 8 bits, over the vector operations of a policy P as in tiles.h, which has in addition:
//
// to_floats(halves, end, count, floats) of half-precision numbers; expand(codes, end, bits, count, scale, offset,
// target) -> scale * code + offset of codes that start on a whole byte. Both may write up to 7 floats too many and read
// nothing from `end` on. And, where kNibbleRows (the most rows that decode 4-bit codes on the way) isn't 0, a type
// Table with table(scale, offset) and decode(16 bytes, table, operands), which gives the values of kInterleaved codes.
//
// scale * code + offset with offset = -scale * zero point is exact in fp32: an 11-bit significand times an integer of
// at most 9 bits. So expanded and decoded weights are the same, and the promise of tiles.h about batches holds here too.
#pragma once

#include "tiles.h"

namespace {

using posttrain::kInterleaved;
using posttrain::PackedLayer;

inline int code_at(const uint8_t* codes, int64_t index, int bits) {
    const int64_t bit = index * bits;
    const int shift = static_cast<int>(bit & 7);
    unsigned value = codes[bit >> 3];
    if (shift + bits > 8) value |= static_cast<unsigned>(codes[(bit >> 3) + 1]) << 8;
    return static_cast<int>(value >> shift & ((1u << bits) - 1));
}

// The bytes of kInterleaved 4-bit codes of which `left` are there; the activations are padded, the codes aren't.
inline const uint8_t* nibbles(const uint8_t* codes, int64_t left, uint8_t* copy) {
    if (__builtin_expect(left >= kInterleaved, 1)) return codes;
    std::memset(copy, 0, kInterleaved / 2);
    std::memcpy(copy, codes, (left + 1) / 2);
    return copy;
}

// R rows against four outputs of an interleaved 4-bit layer; `scales` and `offsets` are [kTileOutputs, groups].
template <class P, int R>
inline void nibble_tile(const Rows& rows, int64_t row, const PackedLayer& layer, const uint8_t* const* codes,
                        const float* scales, const float* offsets, __m128 bias, float* y, int64_t width) {
    constexpr int kVectors = kInterleaved / P::kStep;
    const float* x = static_cast<const float*>(rows.values) + row * rows.stride;
    typename P::Vector sum[R][kTileOutputs];
    UNROLL
    for (int r = 0; r < R; ++r)
        UNROLL
        for (int c = 0; c < kTileOutputs; ++c) sum[r][c] = P::zero();

    int64_t k = 0;
    for (int64_t group = 0; group < layer.groups; ++group) {
        const int64_t end = std::min(k + layer.group_size, layer.inputs);
        typename P::Table table[kTileOutputs];
        UNROLL
        for (int c = 0; c < kTileOutputs; ++c)
            table[c] = P::table(scales[c * layer.groups + group], offsets[c * layer.groups + group]);
        for (; k < end; k += kInterleaved) {
            UNROLL
            for (int c = 0; c < kTileOutputs; ++c) {
                uint8_t last[kInterleaved / 2];
                typename P::Operand w[kVectors];
                P::decode(nibbles(codes[c] + k / 2, end - k, last), table[c], w);
                UNROLL
                for (int v = 0; v < kVectors; ++v)
                    UNROLL
                    for (int r = 0; r < R; ++r) {
                        const auto activation = P::activations(x + r * rows.stride + k + v * P::kStep);
                        sum[r][c] = P::multiply_add(sum[r][c], w[v], activation);
                    }
            }
        }
        k = end;
    }

    UNROLL
    for (int r = 0; r < R; ++r) {
        const __m128 value = _mm_add_ps(P::finish(sum[r][0], sum[r][1], sum[r][2], sum[r][3], rows, row + r), bias);
        float four[kTileOutputs];
        _mm_storeu_ps(four, value);
        std::memcpy(y + (row + r) * layer.outputs, four, width * sizeof(float));
    }
}

template <class P, int R>
inline void nibble_rows(const Rows& rows, int64_t row, int64_t end, const PackedLayer& layer,
                        const uint8_t* const* codes, const float* scales, const float* offsets, __m128 bias, float* y,
                        int64_t width) {
    if constexpr (R > 0) {
        if (end - row == R)
            nibble_tile<P, R>(rows, row, layer, codes, scales, offsets, bias, y, width);
        else
            nibble_rows<P, R - 1>(rows, row, end, layer, codes, scales, offsets, bias, y, width);
    }
}

// One output's weights as fp32, in the order of the activations, zeros from `inputs` to `padded`.
template <class P>
inline void expand_output(const PackedLayer& layer, const uint8_t* codes, const uint8_t* end, const float* scale,
                          const float* offset, float* target, int64_t padded) {
    int64_t k = 0;
    for (int64_t group = 0; group < layer.groups; ++group) {
        const int64_t stop = std::min(k + layer.group_size, layer.inputs);
        if constexpr (P::kNibbleRows > 0) {
            if (layer.interleaved) {
                constexpr int kVectors = kInterleaved / P::kStep;
                const auto table = P::table(scale[group], offset[group]);
                for (; k < stop; k += kInterleaved) {
                    uint8_t last[kInterleaved / 2];
                    typename P::Operand w[kVectors];
                    P::decode(nibbles(codes + k / 2, stop - k, last), table, w);
                    UNROLL
                    for (int v = 0; v < kVectors; ++v) std::memcpy(target + k + v * P::kStep, &w[v], sizeof w[v]);
                }
                k = stop;
                continue;
            }
        }
        P::expand(codes + k * layer.bits / 8, end, layer.bits, stop - k, scale[group], offset[group], target + k);
        k = stop;
    }
    const int64_t filled = layer.interleaved ? (k + kInterleaved - 1) / kInterleaved * kInterleaved : k;
    std::fill(target + filled, target + padded, 0.0f);
}

template <class P>
void compute_packed(const Rows& rows, const PackedLayer& layer, int64_t first, int64_t last, float* y, void* scratch) {
    const int64_t padded = rows.stride;
    const int64_t row_bytes = (layer.inputs * layer.bits + 7) / 8;
    const int64_t zero_bytes = (layer.groups * layer.bits + 7) / 8;
    const uint8_t* end_of_codes = layer.codes + layer.outputs * row_bytes;
    const uint16_t* end_of_scales = layer.scale + layer.outputs * layer.groups;
    const uint8_t* end_of_zeros = layer.zero_point + layer.outputs * zero_bytes;
    const int64_t panel = std::max<int64_t>(kPanelBytes / (padded * 4 + 1) / P::kTileRows, 4) * P::kTileRows;
    float* expanded = static_cast<float*>(scratch);
    float* scales = expanded + kTileOutputs * padded;
    float* offsets = scales + kTileOutputs * layer.groups;
    const float middle = layer.bits == 1 ? 0.5f : static_cast<float>(1 << (layer.bits - 1));

    for (int64_t row = 0; row < rows.count; row += panel) {
        const int64_t end = std::min(rows.count, row + panel);
        for (int64_t output = first; output < last; output += kTileOutputs) {
            const int64_t width = std::min(kTileOutputs, last - output);
            if (row == 0) {  // a tile's four short rows are over before the processor foresees the next ones
                const uint8_t* ahead = layer.codes + (output + kTileOutputs) * row_bytes;
                const uint8_t* until = std::min(ahead + kTileOutputs * row_bytes, end_of_codes);
                for (; ahead < until; ahead += 64) _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T0);
            }
            const __m128 bias = four(layer.bias, output, width);
            const uint8_t* codes[kTileOutputs];  // beyond the last output: that output again, and not stored
            // Ascending, so that what is written too much is written over; the last of it has room behind the offsets.
            for (int64_t c = 0; c < kTileOutputs; ++c) {
                const int64_t source = output + std::min(c, width - 1);
                codes[c] = layer.codes + source * row_bytes;
                const uint16_t* halves = layer.scale + source * layer.groups;
                P::to_floats(halves, end_of_scales, layer.groups, scales + c * layer.groups);
            }
            for (int64_t c = 0; c < kTileOutputs; ++c) {
                const float* scale = scales + c * layer.groups;
                float* offset = offsets + c * layer.groups;
                if (layer.zero_point) {
                    const uint8_t* zeros = layer.zero_point + (output + std::min(c, width - 1)) * zero_bytes;
                    P::expand(zeros, end_of_zeros, layer.bits, layer.groups, -1.0f, 0.0f, offset);
                } else {
                    std::fill(offset, offset + layer.groups, -middle);
                }
                for (int64_t group = 0; group < layer.groups; ++group) offset[group] *= scale[group];
            }
            if (layer.interleaved && end - row <= P::kNibbleRows) {
                nibble_rows<P, P::kNibbleRows>(rows, row, end, layer, codes, scales, offsets, bias, y + output, width);
                continue;
            }
            const float* weight[kTileOutputs];
            for (int64_t c = 0; c < kTileOutputs; ++c) {
                float* target = expanded + c * padded;
                expand_output<P>(layer, codes[c], end_of_codes, scales + c * layer.groups, offsets + c * layer.groups,
                                 target, padded);
                weight[c] = target;
            }
            column<P, P::kTileRows, float>(rows, row, end, weight, padded, _mm_set1_ps(1.0f), bias, y + output,
                                           layer.outputs, width);
        }
    }
}

}  // namespace
