// AVX-512 with VNNI: 64 exact integer products, or 16 fp32 products, an instruction.
//
// vpdpbusd multiplies unsigned by signed bytes and adds four products in int32 without saturation. The weights are made
// unsigned by adding 128 (flipping the top bit); 128 * (sum of the row's activations) too much is the row's offset.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#endif

#include "packed.h"

namespace {

struct Integer {
    using Activation = int8_t;
    using Expanded = int8_t;
    using Vector = __m512i;
    using Operand = __m512i;
    static constexpr int64_t kStep = 64;
    static constexpr int kTileRows = 3;
    static constexpr int64_t kExpandFrom = INT64_MAX;
    static constexpr int32_t kWeightShift = 128;

    static Vector zero() { return _mm512_setzero_si512(); }
    static Operand weights(const int8_t* w) {
        return _mm512_xor_si512(_mm512_loadu_si512(w), _mm512_set1_epi8(static_cast<char>(0x80)));
    }
    static Operand activations(const Activation* x) { return _mm512_loadu_si512(x); }
    static Vector multiply_add(Vector sum, Operand w, Operand x) { return _mm512_dpbusd_epi32(sum, w, x); }
    static __m128 finish(Vector a, Vector b, Vector c, Vector d, const Rows& rows, int64_t row) {
        const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
        return to_real(_mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)), rows, row);
    }
};

struct Real {
    using Activation = float;
    using Expanded = float;
    using Vector = __m512;
    using Operand = __m512;
    static constexpr int64_t kStep = 16;
    static constexpr int kTileRows = 6;
    static constexpr int64_t kExpandFrom = 7;

    static Vector zero() { return _mm512_setzero_ps(); }
    static Operand weights(const int8_t* w) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w))));
    }
    static Operand weights(const Expanded* w) { return _mm512_loadu_ps(w); }
    static Operand activations(const Activation* x) { return _mm512_loadu_ps(x); }
    static Vector multiply_add(Vector sum, Operand w, Operand x) { return _mm512_fmadd_ps(w, x, sum); }
    static __m128 quarters(Vector v) {
        const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
        return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    }
    static __m128 finish(Vector a, Vector b, Vector c, Vector d, const Rows&, int64_t) {
        return add_across(quarters(a), quarters(b), quarters(c), quarters(d));
    }

    static constexpr int kNibbleRows = 3;
    using Table = __m512;  // the sixteen values, looked up by the low four bits of an index
    static Table table(float scale, float offset) {
        const __m512 codes = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        return _mm512_fmadd_ps(codes, _mm512_set1_ps(scale), _mm512_set1_ps(offset));
    }
    static void decode(const uint8_t* codes, const Table& t, Operand* values) {
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
        values[0] = _mm512_permutexvar_ps(bytes, t);
        values[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), t);
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

const posttrain::InstructionSet posttrain::kAvx512 = {"avx512", arithmetic<Integer>(), arithmetic<Real>(),
                                                      quantize_padded<Integer>, quantize_int8,
                                                      compute_packed<Real>, true};

#if defined(__clang__)
#pragma clang attribute pop
#endif
