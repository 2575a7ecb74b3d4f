// Dot products in float64 whose order of addition is fixed.
//
// Element i of a row goes to lane i mod 8; each lane adds its products in ascending order; the eight lanes are then
// folded in halves: (0+4, 1+5, 2+6, 3+7), then (0+2, 1+3), then (0+1). Eight lanes fill the vector registers of every
// instruction set, and since the products themselves are exact, fused and separate multiply-add give the same bits.
#pragma once

#include <array>
#include <cstdint>

namespace pymetaner {

constexpr std::int64_t kLanes = 8;

// The length of a row once it is padded with zeros to whole lanes.
constexpr std::int64_t padded(std::int64_t dim) {
    return (dim + kLanes - 1) / kLanes * kLanes;
}

// Widens a row of `dim` floats to padded(dim) doubles.
inline void widen(const float* row, std::int64_t dim, double* out) {
    std::int64_t i = 0;
    for (; i < dim; ++i) out[i] = row[i];
    for (; i < padded(dim); ++i) out[i] = 0.0;
}

// The dot products of `Queries` padded rows, `length` doubles each and one after another, with one padded row.
// Four at once share the loads of the other operand and keep enough additions in flight; compilers turn both inner
// loops into vector code as they stand.
template <int Queries>
std::array<double, Queries> dots(const double* queries, const double* row, std::int64_t length) {
    double lanes[Queries][kLanes] = {};
    for (std::int64_t i = 0; i < length; i += kLanes) {
        for (int q = 0; q < Queries; ++q) {
            for (int lane = 0; lane < kLanes; ++lane) lanes[q][lane] += queries[q * length + i + lane] * row[i + lane];
        }
    }
    std::array<double, Queries> sums{};
    for (int q = 0; q < Queries; ++q) {
        for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
            for (std::int64_t lane = 0; lane < half; ++lane) lanes[q][lane] += lanes[q][lane + half];
        }
        sums[q] = lanes[q][0];
    }
    return sums;
}

}  // namespace pymetaner
