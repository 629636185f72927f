// What the driver (native.cpp) and the instruction sets (sse2.cpp, avx2.cpp, avx512.cpp) share.
//
// A linear layer y = x W^T with W in int8, one scale per output channel. The driver splits the work over threads, an
// instruction set computes a range of outputs. Nothing here is inline code: each instruction set is compiled for other
// processors, so the linker must never be able to merge a function of one into another.
#pragma once

#include <cstddef>
#include <cstdint>

namespace posttrain {

// Rows of activations, ready for one arithmetic: int8 or int16 integers, or fp32 numbers; zeros from `inputs` to
// `stride`.
struct Rows {
    const void* values;     // [count, stride]
    int64_t count;
    int64_t stride;         // elements from one row to the next, a multiple of kPadding or of the step
    const float* scale;     // [count]; null for fp32 activations
    const int32_t* offset;  // [count], to subtract from each integer sum; null for fp32 activations
};

struct Layer {
    const int8_t* weight;  // [outputs, inputs]
    const float* scale;    // [outputs]
    const float* bias;     // [outputs] or null
    int64_t inputs;
    int64_t outputs;
};

// A layer whose codes take 1 to 8 bits: weight = scale * (code - zero point), exact in fp32.
struct PackedLayer {
    const uint8_t* codes;       // [outputs, ceil(inputs * bits / 8)], little-endian
    const uint16_t* scale;      // fp16 [outputs, groups]
    const uint8_t* zero_point;  // [outputs, ceil(groups * bits / 8)], packed like the codes; null for their middle
    const float* bias;          // [outputs] or null
    int64_t inputs;
    int64_t outputs;
    int64_t group_size;  // a multiple of 8, or all inputs
    int64_t groups;
    int bits;
    bool interleaved;  // activations lie as kInterleaved says
};

// Bytes of 4-bit codes fall apart into the codes of even and of odd inputs without shuffling, so activations are laid
// out to match: of each kInterleaved inputs first the even ones, then the odd ones.
constexpr int64_t kInterleaved = 32;

constexpr int64_t kPadding = 64;     // no vector of any instruction set holds more elements
constexpr int64_t kTileOutputs = 4;  // output channels computed together

// One arithmetic (integer or fp32 activations) of one instruction set.
struct Arithmetic {
    size_t activation_bytes;  // of one activation as `outputs` expects it
    size_t expanded_bytes;    // of one weight in the scratch space
    int64_t step;             // inputs in one vector; rows whose length is a multiple need no padding
    // y[:, first:last] = rows W[first:last]^T; `first` is a multiple of kTileOutputs; y is [rows.count, layer.outputs].
    // `scratch` holds kTileOutputs * padded inputs * expanded_bytes.
    void (*outputs)(const Rows& rows, const Layer& layer, int64_t first, int64_t last, float* y, void* scratch);
};

struct InstructionSet {
    const char* name;
    Arithmetic integer;
    Arithmetic real;
    // One row: values = round(x / scale), zeros from `inputs` to `padded`, offset as in Rows. On entry `scale` holds the
    // scale to use, or 0 for absmax / 127.
    void (*quantize)(const float* x, int64_t inputs, int64_t padded, void* values, float* scale, int32_t* offset);
    // The same row as plain int8, without padding.
    void (*quantize_int8)(const float* x, int64_t inputs, int8_t* values, float* scale);
    // Like `outputs` of an arithmetic, with fp32 rows whose stride is a multiple of kPadding.
    // `scratch` holds kTileOutputs * (stride + 2 * groups) floats and eight more.
    void (*packed)(const Rows& rows, const PackedLayer& layer, int64_t first, int64_t last, float* y, void* scratch);
    bool interleaves;  // whether `packed` wants 4-bit layers interleaved
};

extern const InstructionSet kSse2;
extern const InstructionSet kAvx2;
extern const InstructionSet kAvx512;

}  // namespace posttrain
