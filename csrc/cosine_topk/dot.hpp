// Dot products of float32 rows in float64 whose order of addition is fixed.
//
// Element i of a row goes to lane i mod 8; each lane adds its products in ascending order; the eight lanes are then
// folded in halves: (0+4, 1+5, 2+6, 3+7), then (0+2, 1+3), then (0+1). Eight lanes fill the vector registers of every
// instruction set, and since the product of two floats is exact in float64, fused and separate multiply-add give the
// same bits: this one source gives the same answer wherever and however it is compiled.
//
// Included by the file of each instruction set, whose flags turn the loops into its vectors: `Isa` is a type of that
// file's own, so that the linker never takes one file's code for another's.
#pragma once

#include <cstdint>

#include "cosine_topk/kernels.hpp"

namespace pymetaner {

constexpr int kLanes = 8;

// The sum of eight lanes, folded in halves; `lanes` is changed.
template <class Isa>
double folded(double* lanes) {
    for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    }
    return lanes[0];
}

// sums[r] = the dot product of `query` with rows[r], `dim` floats each.
template <class Isa, int Rows>
void dots_of(const float* query, const float* const* rows, std::int64_t dim, double* sums) {
    double lanes[Rows][kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= dim; i += kLanes) {
        for (int r = 0; r < Rows; ++r) {
            const float* const row = rows[r] + i;
            for (int lane = 0; lane < kLanes; ++lane) {
                lanes[r][lane] += static_cast<double>(query[i + lane]) * static_cast<double>(row[lane]);
            }
        }
    }
    for (int r = 0; r < Rows; ++r) {
        for (std::int64_t rest = i; rest < dim; ++rest) {
            lanes[r][rest - i] += static_cast<double>(query[rest]) * static_cast<double>(rows[r][rest]);
        }
        sums[r] = folded<Isa>(lanes[r]);
    }
}

// The same for 1 to kExactRows rows.
template <class Isa>
void exact_dots(const float* query, const float* const* rows, int count, std::int64_t dim, double* sums) {
    if (count == kExactRows) return dots_of<Isa, kExactRows>(query, rows, dim, sums);
    for (int r = 0; r < count; ++r) dots_of<Isa, 1>(query, rows + r, dim, sums + r);
}

}  // namespace pymetaner
