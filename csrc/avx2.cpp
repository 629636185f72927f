// AVX2 and FMA: 16 exact integer products, or 8 fp32 products, an instruction.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,bmi2")
#endif

#include "packed.h"

namespace {

struct Integer {
    using Activation = int16_t;
    using Expanded = int16_t;
    using Vector = __m256i;
    using Operand = __m256i;
    static constexpr int64_t kStep = 16;
    static constexpr int kTileRows = 2;  // with 3, the sums, activations and products no longer fit sixteen registers
    static constexpr int64_t kExpandFrom = 3;
    static constexpr int32_t kWeightShift = 0;

    static Vector zero() { return _mm256_setzero_si256(); }
    static Operand weights(const int8_t* w) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
    }
    static Operand weights(const Expanded* w) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)); }
    static Operand activations(const Activation* x) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)); }
    // Pairs of int16 products added in int32: at most 2 * 127 * 128, so nothing can saturate.
    static Vector multiply_add(Vector sum, Operand w, Operand x) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
    }
    static __m128i halves(Vector v) { return _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)); }
    static __m128 finish(Vector a, Vector b, Vector c, Vector d, const Rows& rows, int64_t row) {
        return to_real(add_across(halves(a), halves(b), halves(c), halves(d)), rows, row);
    }
};

struct Real {
    using Activation = float;
    using Expanded = float;
    using Vector = __m256;
    using Operand = __m256;
    static constexpr int64_t kStep = 8;
    static constexpr int kTileRows = 3;
    static constexpr int64_t kExpandFrom = 4;

    static Vector zero() { return _mm256_setzero_ps(); }
    static Operand weights(const int8_t* w) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(w))));
    }
    static Operand weights(const Expanded* w) { return _mm256_loadu_ps(w); }
    static Operand activations(const Activation* x) { return _mm256_loadu_ps(x); }
    static Vector multiply_add(Vector sum, Operand w, Operand x) { return _mm256_fmadd_ps(w, x, sum); }
    static __m128 halves(Vector v) { return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)); }
    static __m128 finish(Vector a, Vector b, Vector c, Vector d, const Rows&, int64_t) {
        return add_across(halves(a), halves(b), halves(c), halves(d));
    }

    static constexpr int kNibbleRows = 2;
    struct Table {
        __m256 scale, offset;
    };
    static Table table(float scale, float offset) { return {_mm256_set1_ps(scale), _mm256_set1_ps(offset)}; }
    static Operand value(__m256i code, const Table& t) {
        return _mm256_fmadd_ps(_mm256_cvtepi32_ps(code), t.scale, t.offset);
    }
    static void decode(const uint8_t* codes, const Table& t, Operand* values) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
        const __m256i first = _mm256_cvtepu8_epi32(bytes);
        const __m256i second = _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8));
        const __m256i low = _mm256_set1_epi32(15);
        values[0] = value(_mm256_and_si256(first, low), t);
        values[1] = value(_mm256_and_si256(second, low), t);
        values[2] = value(_mm256_srli_epi32(first, 4), t);
        values[3] = value(_mm256_srli_epi32(second, 4), t);
    }

    static void to_floats(const uint16_t* halves, const uint16_t* end, int64_t count, float* floats) {
        for (int64_t k = 0; k < count; k += 8) {
            __m128i eight;
            if (__builtin_expect(end - halves - k >= 8, 1)) {
                eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + k));
            } else {
                uint16_t last[8] = {};
                std::memcpy(last, halves + k, (end - halves - k) * sizeof last[0]);
                eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(last));
            }
            _mm256_storeu_ps(floats + k, _mm256_cvtph_ps(eight));
        }
    }
    static void expand(const uint8_t* codes, const uint8_t* end, int bits, int64_t count, float scale, float offset,
                       float* target) {
        const __m256 s = _mm256_set1_ps(scale), o = _mm256_set1_ps(offset);
        const uint64_t each = ((uint64_t{1} << bits) - 1) * 0x0101010101010101;
        UNROLL
        for (int64_t k = 0; k < count; k += 8, codes += bits) {  // eight codes take `bits` bytes
            uint64_t word = 0;
            if (__builtin_expect(end - codes >= 8, 1))
                std::memcpy(&word, codes, sizeof word);
            else
                std::memcpy(&word, codes, end - codes);
            const __m128i bytes = _mm_cvtsi64_si128(static_cast<int64_t>(_pdep_u64(word, each)));
            _mm256_storeu_ps(target + k, _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), s, o));
        }
    }
};

}  // namespace

const posttrain::InstructionSet posttrain::kAvx2 = {"avx2", arithmetic<Integer>(), arithmetic<Real>(),
                                                    quantize_padded<Integer>, quantize_int8,
                                                    compute_packed<Real>, true};

#if defined(__clang__)
#pragma clang attribute pop
#endif
