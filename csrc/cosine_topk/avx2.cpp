// AVX2: vpmaddwd multiplies 16 pairs of 16-bit numbers and adds neighbours, two of them a cycle: twice the products of
// float32 FMA. The bank's bytes are widened on their way from the cache, once for six queries. Queries keep 16 bits,
// which leaves the bank's residual as all of the error.
#include <immintrin.h>

#include "cosine_topk/screening.hpp"

namespace pymetaner {
namespace {

struct Avx2 : Plain<Avx2> {
    using Code = std::int16_t;
    static constexpr int kGroup = 6;  // with 8 rows: 12 sums in registers, 2 for the bank, 1 for the query, 1 product

    static void products(const Code* queries, int count, std::int64_t groups, const std::int8_t* panel,
                         std::int32_t* out) {
        switch (count) {
            case 1:
                return products_of<1>(queries, groups, panel, out);
            case 2:
                return products_of<2>(queries, groups, panel, out);
            case 3:
                return products_of<3>(queries, groups, panel, out);
            case 4:
                return products_of<4>(queries, groups, panel, out);
            case 5:
                return products_of<5>(queries, groups, panel, out);
            default:
                return products_of<kGroup>(queries, groups, panel, out);
        }
    }

    template <int Count>
    static void products_of(const Code* queries, std::int64_t groups, const std::int8_t* panel, std::int32_t* out) {
        for (int half = 0; half < 2; ++half) {  // rows 0 to 7, then 8 to 15
            const std::int8_t* bank = panel + half * 32;
            const Code* query = queries;
            __m256i sums[Count][2];  // of rows 0 to 3 and 4 to 7, two sums each
            for (int q = 0; q < Count; ++q) sums[q][0] = sums[q][1] = _mm256_setzero_si256();
            for (std::int64_t g = 0; g < groups; ++g, bank += kPanelRows * kGroupWidth, query += kGroupWidth) {
                const __m256i low = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bank)));
                const __m256i high = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bank + 16)));
                for (int q = 0; q < Count; ++q) {
                    long long four;  // codes
                    memcpy(&four, query + q * groups * kGroupWidth, sizeof four);
                    const __m256i codes = _mm256_set1_epi64x(four);
                    sums[q][0] = _mm256_add_epi32(sums[q][0], _mm256_madd_epi16(low, codes));
                    sums[q][1] = _mm256_add_epi32(sums[q][1], _mm256_madd_epi16(high, codes));
                    // Keeps GCC from loading all codes first, which leaves too few registers for the sums.
                    asm("" : "+x"(sums[q][0]), "+x"(sums[q][1]));
                }
            }
            for (int q = 0; q < Count; ++q) {
                const __m256i pairs = _mm256_hadd_epi32(sums[q][0], sums[q][1]);  // rows 0 1 4 5, then 2 3 6 7
                const __m256i rows = _mm256_permute4x64_epi64(pairs, 0xD8);
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + q * kPanelRows + half * 8), rows);
            }
        }
    }
};

}  // namespace

Kernels avx2_kernels() {
    return table_of<Avx2>();
}

}  // namespace pymetaner
