// AVX2 and FMA: 16 exact integer products, or 8 fp32 products, an instruction.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#include "tiles.h"

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
};

}  // namespace

const posttrain::InstructionSet posttrain::kAvx2 = {"avx2", arithmetic<Integer>(), arithmetic<Real>(),
                                                    quantize_padded<Integer>, quantize_int8};

#if defined(__clang__)
#pragma clang attribute pop
#endif
