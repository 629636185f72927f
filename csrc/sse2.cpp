// x86-64 as every such processor has it: the fallback where AVX2 is missing.
#include "packed.h"

namespace {

struct Integer {
    using Activation = int16_t;
    using Expanded = int16_t;
    using Vector = __m128i;
    using Operand = __m128i;
    static constexpr int64_t kStep = 8;
    static constexpr int kTileRows = 2;
    static constexpr int64_t kExpandFrom = 3;
    static constexpr int32_t kWeightShift = 0;

    static Vector zero() { return _mm_setzero_si128(); }
    static Operand weights(const int8_t* w) {  // into the upper halves, then shifted down with the sign
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w));
        return _mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
    }
    static Operand weights(const Expanded* w) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(w)); }
    static Operand activations(const Activation* x) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(x)); }
    static Vector multiply_add(Vector sum, Operand w, Operand x) { return _mm_add_epi32(sum, _mm_madd_epi16(w, x)); }
    static __m128 finish(Vector a, Vector b, Vector c, Vector d, const Rows& rows, int64_t row) {
        return to_real(add_across(a, b, c, d), rows, row);
    }
};

struct Real {
    using Activation = float;
    using Expanded = float;
    using Vector = __m128;
    using Operand = __m128;
    static constexpr int64_t kStep = 4;
    static constexpr int kTileRows = 2;
    static constexpr int64_t kExpandFrom = 3;

    static Vector zero() { return _mm_setzero_ps(); }
    static Operand weights(const int8_t* w) {
        int32_t four_bytes;
        std::memcpy(&four_bytes, w, sizeof four_bytes);
        const __m128i bytes = _mm_cvtsi32_si128(four_bytes);
        const __m128i pairs = _mm_unpacklo_epi8(bytes, bytes);
        return _mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(pairs, pairs), 24));
    }
    static Operand weights(const Expanded* w) { return _mm_loadu_ps(w); }
    static Operand activations(const Activation* x) { return _mm_loadu_ps(x); }
    static Vector multiply_add(Vector sum, Operand w, Operand x) { return _mm_add_ps(sum, _mm_mul_ps(w, x)); }
    static __m128 finish(Vector a, Vector b, Vector c, Vector d, const Rows&, int64_t) {
        return add_across(a, b, c, d);
    }

    static constexpr int kNibbleRows = 0;
    static void to_floats(const uint16_t* halves, const uint16_t*, int64_t count, float* floats) {
        for (int64_t k = 0; k < count; ++k) {
            const uint32_t half = halves[k];
            // The exponent moves by 127 - 15; multiplying by 2^112 does that for subnormal numbers too.
            const uint32_t bits = (half & 0x7fff) << 13;
            float value;
            std::memcpy(&value, &bits, sizeof value);
            value *= 0x1p112f;
            floats[k] = half & 0x8000 ? -value : value;
        }
    }
    static void expand(const uint8_t* codes, const uint8_t*, int bits, int64_t count, float scale, float offset,
                       float* target) {
        for (int64_t k = 0; k < count; ++k)
            target[k] = scale * static_cast<float>(code_at(codes, k, bits)) + offset;
    }
};

}  // namespace

const posttrain::InstructionSet posttrain::kSse2 = {"sse2", arithmetic<Integer>(), arithmetic<Real>(),
                                                    quantize_padded<Integer>, quantize_int8,
                                                    compute_packed<Real>, false};
