// The C interface of the native kernels, the choice of instruction set and the threads.
//
// Threads come from whichever OpenMP library is in the process already (torch's); this library links none of its own.
#include <omp.h>

#include <cstdlib>
#include <cstring>

#include "kernels.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace posttrain;

constexpr int kVersion = 3;
constexpr int64_t kSerialProducts = 1 << 16;  // below this, waking a second thread costs more than it saves
constexpr int64_t kChunk = 8 * kTileOutputs;  // outputs handed to a thread at a time
constexpr size_t kLine = 64;                  // bytes

const InstructionSet* named(const char* name) {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vnni");
    const InstructionSet* best = avx512 ? &kAvx512 : avx2 ? &kAvx2 : &kSse2;
    if (name == nullptr) return best;
    if (std::strcmp(name, "sse2") == 0) return &kSse2;
    if (std::strcmp(name, "avx2") == 0 && avx2) return &kAvx2;
    if (std::strcmp(name, "avx512") == 0 && avx512) return &kAvx512;
    return nullptr;
}

const InstructionSet* selected = named(nullptr);

size_t round_up(size_t bytes, size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

// Prepares rows of activations, then computes all outputs, a chunk of them at a time on whichever thread is free.
template <class Prepare, class Compute>
void run(int64_t rows, int64_t inputs, int64_t outputs, int threads, const Prepare& prepare, const Compute& compute) {
    // A few rows are ready before another thread would have woken.
    const bool prepare_here = rows * inputs < kSerialProducts / 4;
    if (prepare_here)
        for (int64_t row = 0; row < rows; ++row) prepare(row);

#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        if (!prepare_here) {
#pragma omp for schedule(static)
            for (int64_t row = 0; row < rows; ++row) prepare(row);
        }
#pragma omp for schedule(dynamic) nowait
        for (int64_t first = 0; first < outputs; first += kChunk) {
            const int64_t last = first + kChunk < outputs ? first + kChunk : outputs;
            compute(first, last, omp_get_thread_num());
        }
    }
}

}  // namespace

EXPORT int posttrain_version() { return kVersion; }

EXPORT const char* posttrain_instruction_set() { return selected->name; }

// Chooses "sse2", "avx2" or "avx512"; null chooses the best. Returns 0, or 1 when this processor lacks it.
EXPORT int posttrain_select_instruction_set(const char* name) {
    const InstructionSet* wanted = named(name);
    if (wanted == nullptr) return 1;
    selected = wanted;
    return 0;
}

EXPORT void posttrain_quantize_rows(const float* x, int64_t rows, int64_t inputs, int8_t* values, float* scale,
                                    int threads) {
    const InstructionSet& set = *selected;
    if (rows * inputs < kSerialProducts) threads = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < rows; ++row)
        set.quantize_int8(x + row * inputs, inputs, values + row * inputs, scale + row);
}

// y = x W^T * scale + bias; `dynamic` quantizes each row of x to int8 first, `input_scale` all of x with one scale (null
// for none). Returns 0, or 1 when memory ran out.
EXPORT int posttrain_int8_linear(const float* x, int64_t rows, int64_t inputs, const int8_t* weight, const float* scale,
                                 const float* bias, int64_t outputs, float* y, int dynamic, int threads,
                                 const float* input_scale) {
    const InstructionSet& set = *selected;
    const bool rounded = dynamic || input_scale != nullptr;
    const Arithmetic& arithmetic = rounded ? set.integer : set.real;
    const Layer layer = {weight, scale, bias, inputs, outputs};
    if (rows * inputs * outputs < kSerialProducts) threads = 1;

    const bool copy = rounded || inputs % arithmetic.step != 0;
    const int64_t padded = round_up(inputs, kPadding);
    const size_t activations = copy ? round_up(rows * padded * arithmetic.activation_bytes, kLine) : 0;
    const size_t per_row = round_up(rows * sizeof(float), kLine);
    const size_t scratch = round_up(kTileOutputs * padded * arithmetic.expanded_bytes, kLine);
    auto* memory = static_cast<char*>(std::aligned_alloc(kLine, activations + 2 * per_row + threads * scratch));
    if (memory == nullptr) return 1;
    auto* row_scale = reinterpret_cast<float*>(memory + activations);
    auto* row_offset = reinterpret_cast<int32_t*>(memory + activations + per_row);
    char* expanded = memory + activations + 2 * per_row;
    const Rows prepared = {copy ? static_cast<const void*>(memory) : x, rows, copy ? padded : inputs,
                           rounded ? row_scale : nullptr, rounded ? row_offset : nullptr};

    const auto prepare = [&](int64_t row) {
        void* target = memory + row * padded * arithmetic.activation_bytes;
        if (rounded) {
            row_scale[row] = input_scale ? *input_scale : 0.0f;
            set.quantize(x + row * inputs, inputs, padded, target, row_scale + row, row_offset + row);
        } else {
            std::memcpy(target, x + row * inputs, inputs * sizeof(float));
            std::memset(static_cast<float*>(target) + inputs, 0, (padded - inputs) * sizeof(float));
        }
    };
    const auto compute = [&](int64_t first, int64_t last, int thread) {
        arithmetic.outputs(prepared, layer, first, last, y, expanded + thread * scratch);
    };
    run(copy ? rows : 0, inputs, outputs, threads, prepare, compute);
    std::free(memory);
    return 0;
}

// y = x W^T + bias with the weights of a PackedLayer. Returns 0, or 1 when memory ran out.
EXPORT int posttrain_packed_linear(const float* x, int64_t rows, int64_t inputs, const uint8_t* codes, int bits,
                                   const uint16_t* scale, const uint8_t* zero_point, int64_t group_size,
                                   const float* bias, int64_t outputs, float* y, int threads) {
    const InstructionSet& set = *selected;
    const int64_t groups = (inputs + group_size - 1) / group_size;
    const bool interleaved = set.interleaves && bits == 4 && (groups == 1 || group_size % kInterleaved == 0);
    const PackedLayer layer = {codes,   scale,      zero_point, bias, inputs,
                               outputs, group_size, groups,     bits, interleaved};
    if (rows * inputs * outputs < kSerialProducts) threads = 1;

    const int64_t padded = round_up(inputs, kPadding);
    const bool copy = interleaved || padded != inputs;
    const size_t activations = copy ? round_up(rows * padded * sizeof(float), kLine) : 0;
    const size_t scratch = round_up((kTileOutputs * (padded + 2 * groups) + 8) * sizeof(float), kLine);
    auto* memory = static_cast<char*>(std::aligned_alloc(kLine, activations + threads * scratch));
    if (memory == nullptr) return 1;
    char* expanded = memory + activations;
    const Rows prepared = {copy ? static_cast<const void*>(memory) : x, rows, padded, nullptr, nullptr};

    const auto prepare = [&](int64_t row) {
        const float* source = x + row * inputs;
        auto* target = reinterpret_cast<float*>(memory) + row * padded;
        int64_t done = 0;
        if (interleaved) {
            constexpr int64_t half = kInterleaved / 2;
            for (; done + kInterleaved <= inputs; done += kInterleaved)
                for (int64_t k = 0; k < half; ++k) {
                    target[done + k] = source[done + 2 * k];
                    target[done + half + k] = source[done + 2 * k + 1];
                }
            std::memset(target + done, 0, (padded - done) * sizeof(float));
            for (int64_t k = done; k < inputs; ++k) target[done + (k - done) / 2 + (k & 1 ? half : 0)] = source[k];
        } else {
            std::memcpy(target, source, inputs * sizeof(float));
            std::memset(target + inputs, 0, (padded - inputs) * sizeof(float));
        }
    };
    const auto compute = [&](int64_t first, int64_t last, int thread) {
        set.packed(prepared, layer, first, last, y, expanded + thread * scratch);
    };
    run(copy ? rows : 0, inputs, outputs, threads, prepare, compute);
    std::free(memory);
    return 0;
}
