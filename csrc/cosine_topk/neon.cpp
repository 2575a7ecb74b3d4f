// NEON, which every 64-bit ARM has: widening multiply-add of 16-bit numbers, as on AVX2.
#include <arm_neon.h>

#include "cosine_topk/screening.hpp"

namespace pymetaner {
namespace {

struct Neon : Plain<Neon> {
    using Code = std::int16_t;
    static constexpr int kGroup = 4;

    static void products(const Code* queries, int count, std::int64_t groups, const std::int8_t* panel,
                         std::int32_t* out) {
        for (int part = 0; part < kPanelRows; part += 4) {  // four rows at a time
            for (int q = 0; q < count; ++q) {
                const Code* query = queries + q * groups * kGroupWidth;
                const std::int8_t* bank = panel + part * kGroupWidth;
                int32x4_t sums[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
                for (std::int64_t g = 0; g < groups; ++g, bank += kPanelRows * kGroupWidth, query += kGroupWidth) {
                    const int16x4_t codes = vld1_s16(query);
                    const int8x16_t bytes = vld1q_s8(bank);
                    const int16x8_t low = vmovl_s8(vget_low_s8(bytes));
                    const int16x8_t high = vmovl_s8(vget_high_s8(bytes));
                    sums[0] = vmlal_s16(sums[0], vget_low_s16(low), codes);
                    sums[1] = vmlal_s16(sums[1], vget_high_s16(low), codes);
                    sums[2] = vmlal_s16(sums[2], vget_low_s16(high), codes);
                    sums[3] = vmlal_s16(sums[3], vget_high_s16(high), codes);
                }
                const int32x4_t rows = vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]));
                vst1q_s32(out + q * kPanelRows + part, rows);
            }
        }
    }
};

}  // namespace

Kernels neon_kernels() {
    return table_of<Neon>();
}

}  // namespace pymetaner
