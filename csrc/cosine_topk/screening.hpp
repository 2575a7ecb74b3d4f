// Screening: an upper bound of every cosine from 8-bit copies of the bank, so that only the few pairs that may belong
// to the answer are scored exactly.
//
// A row b of the bank is stored as whole numbers B[i] from -127 to 127 with b / |b| close to s_b B, a query q as whole
// numbers Q[i] (how many bits is up to the instruction set) with q / |q| close to s_q Q. Beside each stands its
// residual: r_b >= | b / |b| - s_b B | and r_q likewise, measured and rounded up.
//
// THE BOUND. Let u = q / |q|, v = b / |b|, U = s_q Q, V = s_b B. Then
//     u.v = U.V + U.(v - V) + (u - U).v ,    and by Cauchy and Schwarz
//     u.v <= U.V + |U| |v - V| + |u - U| |v| <= s_q s_b (Q.B) + (1 + r_q) r_b + r_q ,
// as |v| = 1 and |U| <= |u| + |u - U| <= 1 + r_q. Q.B is a sum of whole numbers that stays below 2^31, so it is exact
// in any order. What is rounded is the rest, in float32 with unit e = 2^-24; residuals are at most 1, since rounding to
// the nearest multiple moves no element by more than its own size, so every |U.V| <= 4:
//     Q.B to float, s_q s_b, and their product       at most 3.1 e * 4
//     s_q and s_b themselves                          at most 2 e * 4
//     (1 + r_q) r_b + r_q                             at most 4 e * 3
//     the sum of the two, at most 7                   at most 7 e
//     residuals in float64, and the exact score's own error, (dim + 8) 2^-52 with dim <= 65,536: below e
// together less than 41 e = 2.5e-6. The bound that is computed adds kRounding = 4e-6.
// A vector of zeros has s = r = 0, and its score, 0, is below the bound kRounding.
//
// Layout of the 8-bit copy: panels of 16 rows; within a panel groups of 4 elements, 64 bytes each: 4 bytes of row 0,
// 4 of row 1, ... 4 of row 15. That is at once a tile of AMX (16 groups), a register of AVX-512, two of AVX2 and four
// of NEON, so one copy, in memory or on disk, serves them all. Rows are padded with zeros to whole AMX tiles.
//
// Included by the file of each instruction set; `Isa` has
//     Code             the type of a query's numbers, of 8 or 16 bits
//     kGroup           how many queries are screened together
//     kTogether        of how many queries the codes alternate, four of each at a time; what kGroup is a multiple of
//     kZero            the code of zero: what is added to Q
//     static void products(const Code* queries, int count, int64_t groups, const int8_t* panel, int32_t* out)
//                      out[16 q + r] = Q.B of `count` <= kGroup queries, 4 * groups codes each, with 16 rows; room for
//                      kGroup of them
// Nothing of the standard library is instantiated here, for its templates would be compiled with this file's flags and
// might then be linked into code that older processors run.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>

#include "cosine_topk/dot.hpp"
#include "cosine_topk/kernels.hpp"

namespace pymetaner {

// How most sets have the codes of queries: one query after another, as they are.
struct PlainQueries {
    static constexpr int kTogether = 1;
    static constexpr int kZero = 0;
};

// Encodes a row with whole numbers from -levels to levels, to which `zero_code` is added: groups of four codes, each
// group `step` codes behind the one before, padded / 4 groups. `line` has room for `padded` floats.
template <class Isa, typename Code>
void encode_row(const float* row, std::int64_t dim, std::int64_t padded, double norm, double levels, int zero_code,
                float* line, Code* codes, std::int64_t step, float* scale, float* residual) {
    const bool zero = !(norm > 0.0);
    for (std::int64_t i = 0; i < dim; ++i) line[i] = zero ? 0.0F : row[i];
    for (std::int64_t i = dim; i < padded; ++i) line[i] = 0.0F;

    std::int32_t bits = 0;  // those of positive floats are in the order of the floats
    for (std::int64_t i = 0; i < padded; ++i) {
        std::int32_t size = 0;
        memcpy(&size, line + i, sizeof size);
        size &= 0x7FFFFFFF;
        bits = size > bits ? size : bits;
    }
    float largest = 0.0F;
    memcpy(&largest, &bits, sizeof largest);
    const double unit = zero ? 0.0 : static_cast<double>(largest) / levels;
    const double inverse = zero ? 0.0 : levels / static_cast<double>(largest);

    constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
    double squares[kLanes] = {};
    for (std::int64_t i = 0; i < padded; i += kTileWidth) {
        Code part[kTileWidth];
        double errors[kTileWidth];
        for (int j = 0; j < kTileWidth; ++j) {
            // x + round has no room for a fraction, so x + round - round is the nearest whole number.
            const double x = line[i + j];
            const double code = (x * inverse + round) - round;
            errors[j] = x - unit * code;
            part[j] = static_cast<Code>(static_cast<std::int32_t>(code) + zero_code);
        }
        for (int j = 0; j < kTileWidth; j += kLanes) {
            for (int lane = 0; lane < kLanes; ++lane) squares[lane] += errors[j + lane] * errors[j + lane];
        }
        for (int j = 0; j < kTileWidth; j += kGroupWidth) {
            memcpy(codes + (i + j) / kGroupWidth * step, part + j, kGroupWidth * sizeof(Code));
        }
    }
    for (int lane = 1; lane < kLanes; ++lane) squares[0] += squares[lane];
    *scale = zero ? 0.0F : static_cast<float>(unit / norm);
    *residual = zero ? 0.0F : static_cast<float>(sqrt(squares[0]) / norm * (1.0 + 1e-6));  // more than its rounding
}

// See Kernels::encode_panel.
template <class Isa>
void encode_panel(const float* rows, std::int64_t stride, std::int64_t dim, std::int64_t padded, const double* norms,
                  float* line, std::int8_t* panel, float* scales, float* residuals) {
    for (int r = 0; r < kPanelRows; ++r) {
        encode_row<Isa>(rows + r * stride, dim, padded, norms[r], kRowLevels, 0, line, panel + r * kGroupWidth,
                        kPanelRows * kGroupWidth, scales + r, residuals + r);
    }
}

// Whole numbers of this many levels keep every sum Q.B below 2^31: |Q.B| <= dim * levels * 127.
template <class Isa>
double query_levels(std::int64_t dim) {
    if (sizeof(typename Isa::Code) == 1) return 127.0;
    const std::int64_t levels = 0x7FFFFFFF / (dim * static_cast<std::int64_t>(kRowLevels));
    return static_cast<double>(levels < 32767 ? levels : 32767);
}

// See Kernels::encode_query.
template <class Isa>
void encode_query(const float* row, std::int64_t dim, std::int64_t padded, double norm, float* line, void* codes,
                  float* scale, float* residual) {
    encode_row<Isa>(row, dim, padded, norm, query_levels<Isa>(dim), Isa::kZero, line,
                    static_cast<typename Isa::Code*>(codes), Isa::kTogether * kGroupWidth, scale, residual);
}

// See Kernels::screen.
template <class Isa>
std::uint64_t screen(const QueryGroup& queries, std::int64_t groups, const std::int8_t* panel, const float* scales,
                     const float* residuals, float* bounds) {
    alignas(64) std::int32_t products[Isa::kGroup * kPanelRows];
    Isa::products(static_cast<const typename Isa::Code*>(queries.codes), queries.count, groups, panel, products);
    std::uint64_t passed = 0;
    for (int q = 0; q < queries.count; ++q) {
        const float scale = queries.scales[q];
        const float stretch = 1.0F + queries.residuals[q];
        const float slack = queries.residuals[q] + kRounding;
        const float limit = queries.limits[q];
        alignas(64) float line[kPanelRows];  // which nothing else overlaps, so that vectors can be made of the loops
#pragma GCC unroll 1                         // unrolled, they would stay scalar
        for (int r = 0; r < kPanelRows; ++r) {
            line[r] = static_cast<float>(products[q * kPanelRows + r]) * (scale * scales[r]) +
                      (stretch * residuals[r] + slack);
        }
        std::int32_t pass = 0;
#pragma GCC unroll 1
        for (int r = 0; r < kPanelRows; ++r) pass |= line[r] >= limit ? 1 : 0;
        memcpy(bounds + q * kPanelRows, line, sizeof line);
        passed |= static_cast<std::uint64_t>(pass) << q;
    }
    return passed;
}

template <class Isa>
constexpr Kernels table_of() {
    static_assert(Isa::kGroup <= 64, "screen returns a bit for each query");
    static_assert(Isa::kGroup % Isa::kTogether == 0, "a group of queries begins where their codes do");
    return {Isa::kGroup,        Isa::kTogether, sizeof(typename Isa::Code), &exact_dots<Isa>, &encode_panel<Isa>,
            &encode_query<Isa>, &screen<Isa>};
}

}  // namespace pymetaner
