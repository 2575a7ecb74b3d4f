// Screening: an upper bound of every cosine from 8-bit copies of the bank, so that only the few pairs that may belong
// to the answer are scored exactly.
//
// What is copied of a vector is what tells it from a centre m, the same for all: vectors of a trained encoder lie close
// together, and their differences are short where they are not, so the copy's error is short too. A row b is stored as
// whole numbers B[i] from -127 to 127 with b / |b| - m close to s_b B, a query q as whole numbers Q[i] (how many bits
// is up to the instruction set) with q / |q| - m close to s_q Q.
//
// THE BOUND. Let u = q / |q| and v = b / |b|, or 0 where a vector is all zeros, which makes the cosine u.v 0 as it
// should be. Let p = u - m, w = v - m, P = s_q Q, W = s_b B. The terms that stand beside the numbers are the scale s,
// the residual r_q >= |p - P|, the length l_q >= |p| and the offset o_q = (|u|^2 - |p|^2) / 2 of a query, likewise r_b,
// l_b and o_b of a row. As u - v = p - w,
//     |u|^2 - 2 u.v + |v|^2 = |p|^2 - 2 p.w + |w|^2 ,    so u.v = p.w + o_q + o_b ,    and by Cauchy and Schwarz
//     p.w = P.W + P.(w - W) + (p - P).w <= s_q s_b (Q.B) + (l_q + r_q) r_b + r_q l_b .
// Q.B is a sum of whole numbers that stays below 2^31, so it is exact in any order. What is rounded is the rest, in
// float32 with unit e = 2^-24. |m| <= 1.001, so lengths are at most 2.001 and offsets between -1.51 and 0.51; residuals
// are at most as long as their vector, since rounding to the nearest multiple moves no element by more than its own
// size; so |P| and |W| are at most 4.01 and |P.W| at most 16.1:
//     Q.B to float, s_q, s_b, s_q s_b and their product         at most 5.1 e * 16.1
//     l_q + r_q and its product with r_b, r_q l_b               at most 2.1 e * 8.1 and 1.1 e * 4.1
//     the offsets themselves                                    at most 1.1 e * 3.1
//     the sums, of at most 1.6, 3.1, 7.2, 15.3 and 31.4         at most 59 e
// Residuals and lengths are rounded up, and what is left, float64 and floats that vanish, is below e, as is the exact
// score's own error, (dim + 8) 2^-52 with dim <= 65,536: together less than 170 e = 1.02e-5. The bound that is computed
// adds kRounding = 1.2e-5.
//
// THE FLOOR. By the same inequality p.w >= P.W - (l_q + r_q) r_b - r_q l_b, so the cosine is at least the computed
// bound less twice both products, less kRounding and what was rounded in the bound: 202 e and 170 e. Taking that off
// rounds, in turn, both products, together at most 12.1, their sum and its double by at most 70 e, and the differences,
// of at most 24.3 and 55.7, by 89 e: together less than 540 e. 3 kRounding = 604 e are taken off.
//
// Layout of the 8-bit copy: panels of 16 rows; within a panel groups of 4 elements, 64 bytes each: 4 bytes of row 0,
// 4 of row 1, ... 4 of row 15. That is at once a tile of AMX (16 groups), a register of AVX-512, two of AVX2 and four
// of NEON, so one copy, in memory or on disk, serves them all. Rows are padded with zeros to whole AMX tiles.
//
// Included by the file of each instruction set; `Isa` has
//     Code             the type of a query's numbers, of 8 or 16 bits
//     kGroup           how many queries are screened together
//     kTogether        of how many queries the codes alternate; what kGroup is a multiple of
//     kAlternate       how many of each at a time: 4 or 64
//     kZero            the code of zero: what is added to Q
//     Bounds           of a panel: Bounds(terms).reaching(products, query, limit, out) writes the bounds of 16 rows,
//                      whose products with the query are given, and returns those that reach the limit, bit r for row r
//     static void screen(queries, groups, panels, found)
//                      see Kernels::screen; most sets are served by screen_by_panels, which needs
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

// Bounds in plain C++, which compilers make vectors of.
template <class Isa>
class PlainBounds {
  public:
    explicit PlainBounds(const PanelTerms& terms) : terms_(terms) {}

    std::uint16_t reaching(const std::int32_t* products, const QueryTerms& query, float limit, float* out) const {
        alignas(64) float line[kPanelRows];  // which nothing else overlaps, so that vectors can be made of the loops
#pragma GCC unroll 1                         // unrolled, they would stay scalar
        for (int r = 0; r < kPanelRows; ++r) {
            line[r] = static_cast<float>(products[r]) * (query.scale * terms_.scales[r]) +
                      (query.stretch * terms_.residuals[r] +
                       (query.residual * terms_.lengths[r] + (terms_.offsets[r] + query.slack)));
        }
        std::int32_t rows = 0;
#pragma GCC unroll 1
        for (int r = 0; r < kPanelRows; ++r) rows |= line[r] >= limit ? 1 << r : 0;
        memcpy(out, line, sizeof line);
        return static_cast<std::uint16_t>(rows);
    }

  private:
    const PanelTerms& terms_;
};

// Writes what Screened holds of one panel, the first place of which is `place`. Without a branch on what reaches the
// limit, which cannot be foreseen.
template <class Bounds>
std::uint64_t make_bounds(const Bounds& bounds, const std::int32_t (*products)[kPanelRows], const QueryGroup& queries,
                          const Screened& found, int place) {
    const QueryGroup group = queries;  // a copy, which nothing that is written overlaps
    float (*const out)[kPanelRows] = found.bounds + place;
    std::uint16_t* const rows = found.rows + place;
    std::uint64_t passed = 0;
    for (int q = 0; q < group.count; ++q) {
        const std::uint16_t reaching = bounds.reaching(products[q], group.terms[q], group.limits[q], out[q]);
        rows[q] = reaching;
        passed |= static_cast<std::uint64_t>(reaching != 0) << q;
    }
    return passed;
}

// See Kernels::screen. One panel at a time.
template <class Isa>
void screen_by_panels(const QueryGroup& queries, std::int64_t groups, const PanelRun& panels, const Screened& found) {
    alignas(64) std::int32_t products[Isa::kGroup][kPanelRows];
    const auto* const codes = static_cast<const typename Isa::Code*>(queries.codes);
    for (int p = 0; p < panels.count; ++p) {
        Isa::products(codes, queries.count, groups, panels.codes + p * groups * kGroupWidth * kPanelRows, products[0]);
        found.queries[p] =
            make_bounds(typename Isa::Bounds(panels.terms[p]), products, queries, found, p * Isa::kGroup);
    }
}

// How most sets go about it: codes of one query after another, as they are.
template <class Isa>
struct Plain {
    using Bounds = PlainBounds<Isa>;
    static constexpr int kTogether = 1;
    static constexpr int kAlternate = kGroupWidth;
    static constexpr int kZero = 0;

    static void screen(const QueryGroup& queries, std::int64_t groups, const PanelRun& panels, const Screened& found) {
        screen_by_panels<Isa>(queries, groups, panels, found);
    }
};

// What the bound needs of a vector beside its codes.
struct RowTerms {
    float scale;
    float residual;
    float length;
    float offset;
};

// Where the codes of a vector go: each four of them `four` codes behind the four before, but each 64 of them `tile`
// codes behind the 64 before.
struct Places {
    std::int64_t four;
    std::int64_t tile;
};

// Encodes a row with whole numbers from -levels to levels, to which `zero_code` is added. `line` has room for `padded`
// doubles.
template <class Isa, typename Code>
RowTerms encode_row(const float* row, std::int64_t dim, std::int64_t padded, double norm, const float* center,
                    double levels, int zero_code, double* line, Code* codes, Places places) {
    const float* const from = norm > 0.0 ? row : center;  // times 0
    const double shrink = norm > 0.0 ? 1.0 / norm : 0.0;
    double squares[kLanes] = {};
    std::int32_t sizes[kLanes] = {};  // bits of positive floats are in the order of the floats
    const auto take = [&](std::int64_t i, std::int64_t lane) {
        const double x = static_cast<double>(from[i]) * shrink - static_cast<double>(center[i]);
        line[i] = x;
        squares[lane] += x * x;
        const auto narrow = static_cast<float>(x);
        std::int32_t size = 0;
        memcpy(&size, &narrow, sizeof size);
        size &= 0x7FFFFFFF;
        sizes[lane] = size > sizes[lane] ? size : sizes[lane];
    };
    const std::int64_t whole = dim / kLanes * kLanes;
    for (std::int64_t i = 0; i < whole; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) take(i + lane, lane);
    }
    for (std::int64_t i = whole; i < dim; ++i) take(i, i - whole);
    for (std::int64_t i = dim; i < padded; ++i) line[i] = 0.0;
    std::int32_t bits = 0;
    for (int lane = 0; lane < kLanes; ++lane) bits = sizes[lane] > bits ? sizes[lane] : bits;
    float largest = 0.0F;
    memcpy(&largest, &bits, sizeof largest);
    const double unit = static_cast<double>(largest) / levels;
    const double inverse = largest > 0.0F ? levels / static_cast<double>(largest) : 0.0;

    constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
    double errors[kLanes] = {};
    for (std::int64_t i = 0; i < padded; i += kTileWidth) {
        Code part[kTileWidth];
        double off[kTileWidth];
        for (int j = 0; j < kTileWidth; ++j) {
            // x + round has no room for a fraction, so x + round - round is the nearest whole number.
            const double x = line[i + j];
            const double code = (x * inverse + round) - round;
            off[j] = x - unit * code;
            part[j] = static_cast<Code>(static_cast<std::int32_t>(code) + zero_code);
        }
        for (int j = 0; j < kTileWidth; j += kLanes) {
            for (int lane = 0; lane < kLanes; ++lane) errors[lane] += off[j + lane] * off[j + lane];
        }
        Code* const tile = codes + i / kTileWidth * places.tile;
        for (int j = 0; j < kTileWidth; j += kGroupWidth) {
            memcpy(tile + j / kGroupWidth * places.four, part + j, kGroupWidth * sizeof(Code));
        }
    }
    const double square = folded<Isa>(squares);
    constexpr double up = 1.0 + 1e-6;  // more than rounding to float takes off
    return {static_cast<float>(unit), static_cast<float>(sqrt(folded<Isa>(errors)) * up),
            static_cast<float>(sqrt(square) * up), static_cast<float>(((norm > 0.0 ? 1.0 : 0.0) - square) / 2)};
}

// See Kernels::encode_panel.
template <class Isa>
void encode_panel(const float* rows, std::int64_t stride, std::int64_t dim, std::int64_t padded, const double* norms,
                  const float* center, double* line, std::int8_t* panel, PanelTerms* terms) {
    for (int r = 0; r < kPanelRows; ++r) {
        const RowTerms row =
            encode_row<Isa>(rows + r * stride, dim, padded, norms[r], center, kRowLevels, 0, line,
                            panel + r * kGroupWidth, {kPanelRows * kGroupWidth, kPanelRows * kTileWidth});
        terms->scales[r] = row.scale;
        terms->residuals[r] = row.residual;
        terms->lengths[r] = row.length;
        terms->offsets[r] = row.offset;
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
void encode_query(const float* row, std::int64_t dim, std::int64_t padded, double norm, const float* center,
                  double* line, void* codes, QueryTerms* terms) {
    constexpr Places places = {Isa::kAlternate == kTileWidth ? kGroupWidth : Isa::kTogether * kGroupWidth,
                               Isa::kTogether * kTileWidth};
    const RowTerms query = encode_row<Isa>(row, dim, padded, norm, center, query_levels<Isa>(dim), Isa::kZero, line,
                                           static_cast<typename Isa::Code*>(codes), places);
    *terms = {query.scale, query.residual, query.length + query.residual, query.offset + kRounding};
}

template <class Isa>
constexpr Kernels table_of() {
    static_assert(Isa::kGroup <= 64, "screen returns a bit for each query");
    static_assert(Isa::kGroup % Isa::kTogether == 0, "a group of queries begins where their codes do");
    static_assert(Isa::kAlternate == kGroupWidth || Isa::kAlternate == kTileWidth, "see encode_query");
    return {Isa::kGroup,      Isa::kTogether,     Isa::kAlternate,    sizeof(typename Isa::Code),
            &exact_dots<Isa>, &encode_panel<Isa>, &encode_query<Isa>, &Isa::screen};
}

}  // namespace pymetaner
