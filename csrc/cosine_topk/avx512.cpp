// AVX-512 with VNNI: vpdpbusd adds 64 products of bytes into 16 sums, one for each row of the panel, in one
// instruction. It multiplies unsigned with signed bytes, so the bank's are raised by 128, and what that adds, 128 times
// the sum of the query's codes, is taken off at the start.
#include <immintrin.h>

#include "cosine_topk/screening.hpp"

namespace pymetaner {
namespace {

struct Avx512 {
    using Code = std::int8_t;
    static constexpr int kGroup = 12;  // two vpdpbusd a cycle of five cycles each: ten sums have to be in flight

    static void products(const Code* queries, int count, std::int64_t groups, const std::int8_t* panel,
                         std::int32_t* out) {
        int q = 0;
        for (; q + kGroup <= count; q += kGroup) products_of<kGroup>(queries, q, groups, panel, out);
        for (; q + 4 <= count; q += 4) products_of<4>(queries, q, groups, panel, out);
        for (; q < count; ++q) products_of<1>(queries, q, groups, panel, out);
    }

    // The same of queries first, first + 1, ... first + Count - 1.
    template <int Count>
    static void products_of(const Code* queries, int first, std::int64_t groups, const std::int8_t* panel,
                            std::int32_t* out) {
        const std::int64_t width = groups * kGroupWidth;
        const Code* const query = queries + first * width;
        const __m512i raise = _mm512_set1_epi8(-128);  // as an unsigned byte 128, and what turns B into B + 128
        __m512i sums[Count];
        for (int q = 0; q < Count; ++q) {
            __m512i raised = _mm512_setzero_si512();
            for (std::int64_t i = 0; i < width; i += kTileWidth) {
                raised = _mm512_dpbusd_epi32(raised, raise, _mm512_loadu_si512(query + q * width + i));
            }
            alignas(64) std::int32_t parts[16];
            _mm512_store_si512(parts, raised);
            std::int32_t total = 0;
            for (const std::int32_t part : parts) total += part;
            sums[q] = _mm512_set1_epi32(-total);
        }
        for (std::int64_t g = 0; g < groups; ++g) {
            const __m512i bank = _mm512_xor_si512(_mm512_loadu_si512(panel + g * kPanelRows * kGroupWidth), raise);
            for (int q = 0; q < Count; ++q) {
                std::int32_t four = 0;  // codes
                memcpy(&four, query + q * width + g * kGroupWidth, sizeof four);
                sums[q] = _mm512_dpbusd_epi32(sums[q], bank, _mm512_set1_epi32(four));
            }
        }
        for (int q = 0; q < Count; ++q) _mm512_storeu_si512(out + (first + q) * kPanelRows, sums[q]);
    }
};

}  // namespace

Kernels avx512_kernels() {
    return table_of<Avx512>();
}

}  // namespace pymetaner
