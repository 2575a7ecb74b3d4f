// AVX-512 with VNNI: vpdpbusd adds 64 products of bytes into 16 sums, one for each row of the panel, in one
// instruction, two of them a cycle where the vector units are 512 bits wide. Four codes of each of 16 queries stand
// together, so that all are read with one pointer and take the 16 sums that hide the instruction's latency.
//
// It multiplies unsigned with signed bytes, so queries are raised by 128; what that adds, 128 times the sum of a row's
// numbers, is one more sum and is taken off at the end. Both are exact modulo 2^32, and so is their difference.
#include <immintrin.h>

#include "cosine_topk/wide_bounds.hpp"

namespace pymetaner {
namespace {

struct Avx512 : Plain<Avx512> {
    using Bounds = WideBounds;
    using Code = std::uint8_t;
    static constexpr int kGroup = 16;
    static constexpr int kTogether = kGroup;
    static constexpr int kZero = 128;

    static void products(const Code* queries, int count, std::int64_t groups, const std::int8_t* panel,
                         std::int32_t* out) {
        if (count == 1) return products_of_one(queries, groups, panel, out);
        if (count <= 4) return products_of<4>(queries, groups, panel, out);
        if (count <= 8) return products_of<8>(queries, groups, panel, out);
        if (count <= 12) return products_of<12>(queries, groups, panel, out);
        return products_of<kGroup>(queries, groups, panel, out);
    }

    // Of the first `Count` places of a group; those without a query give numbers that nobody reads.
    template <int Count>
    static void products_of(const Code* queries, std::int64_t groups, const std::int8_t* panel, std::int32_t* out) {
        const __m512i raise = _mm512_set1_epi8(static_cast<char>(kZero));
        __m512i raised = _mm512_setzero_si512();
        __m512i sums[Count];  // in registers, once all loops over them are unrolled
#pragma GCC unroll 16
        for (int q = 0; q < Count; ++q) sums[q] = _mm512_setzero_si512();
        for (std::int64_t g = 0; g < groups; ++g) {
            const __m512i bank = _mm512_loadu_si512(panel + g * kPanelRows * kGroupWidth);
            raised = _mm512_dpbusd_epi32(raised, raise, bank);
#pragma GCC unroll 16
            for (int q = 0; q < Count; ++q) {
                sums[q] = _mm512_dpbusd_epi32(sums[q], codes_at(queries, g, q), bank);
                // Keeps GCC from loading all codes first, which leaves too few registers for the sums.
                asm("" : "+v"(sums[q]));
            }
        }
#pragma GCC unroll 16
        for (int q = 0; q < Count; ++q) {
            _mm512_storeu_si512(out + q * kPanelRows, _mm512_sub_epi32(sums[q], raised));
        }
    }

    // One query reads the bank as fast as it comes: four sums each, so that nothing waits for the one before.
    static void products_of_one(const Code* query, std::int64_t groups, const std::int8_t* panel, std::int32_t* out) {
        const __m512i raise = _mm512_set1_epi8(static_cast<char>(kZero));
        __m512i sums[4], raised[4];
        for (int i = 0; i < 4; ++i) sums[i] = raised[i] = _mm512_setzero_si512();
        for (std::int64_t g = 0; g < groups; g += 4) {  // rows are padded to 16 groups
            for (int i = 0; i < 4; ++i) {
                const __m512i bank = _mm512_loadu_si512(panel + (g + i) * kPanelRows * kGroupWidth);
                raised[i] = _mm512_dpbusd_epi32(raised[i], raise, bank);
                sums[i] = _mm512_dpbusd_epi32(sums[i], codes_at(query, g + i, 0), bank);
            }
        }
        for (int i = 0; i < 4; ++i) sums[i] = _mm512_sub_epi32(sums[i], raised[i]);
        const __m512i low = _mm512_add_epi32(sums[0], sums[1]), high = _mm512_add_epi32(sums[2], sums[3]);
        _mm512_storeu_si512(out, _mm512_add_epi32(low, high));
    }

    // The four codes of a group of elements of a query, 16 times.
    static __m512i codes_at(const Code* queries, std::int64_t group, int query) {
        std::int32_t four = 0;
        memcpy(&four, queries + (group * kTogether + query) * kGroupWidth, sizeof four);
        return _mm512_set1_epi32(four);
    }
};

}  // namespace

Kernels avx512_kernels() {
    return table_of<Avx512>();
}

}  // namespace pymetaner
