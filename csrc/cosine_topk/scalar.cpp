// For every processor of the architecture, in plain C++ that compilers turn into what vectors it has (SSE2 on x86-64).
// Queries have 16 bits, as there is an instruction for sums of 16-bit products nearly everywhere, and none for 8 bits.
#include "cosine_topk/screening.hpp"

namespace pymetaner {
namespace {

struct Scalar : Plain<Scalar> {
    using Code = std::int16_t;
    static constexpr int kGroup = 16;  // queries that share the rows as they are taken out of a panel

    static void products(const Code* queries, int count, std::int64_t groups, const std::int8_t* panel,
                         std::int32_t* out) {
        for (int i = 0; i < count * kPanelRows; ++i) out[i] = 0;
        constexpr std::int64_t kChunk = 64;  // groups
        Code row[kChunk * kGroupWidth];
        for (std::int64_t first = 0; first < groups; first += kChunk) {
            const std::int64_t chunk = groups - first < kChunk ? groups - first : kChunk;
            for (int r = 0; r < kPanelRows; ++r) {
                for (std::int64_t i = 0; i < chunk * kGroupWidth; ++i) {
                    row[i] = panel[((first + i / kGroupWidth) * kPanelRows + r) * kGroupWidth + i % kGroupWidth];
                }
                for (int q = 0; q < count; ++q) {
                    const Code* const query = queries + (q * groups + first) * kGroupWidth;
                    std::int32_t sum = 0;
                    for (std::int64_t i = 0; i < chunk * kGroupWidth; ++i) sum += query[i] * row[i];
                    out[q * kPanelRows + r] += sum;
                }
            }
        }
    }
};

}  // namespace

Kernels scalar_kernels() {
    return table_of<Scalar>();
}

}  // namespace pymetaner
