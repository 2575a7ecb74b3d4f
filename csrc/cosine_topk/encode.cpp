// Sixteen rows at a time: their norms while they are read, then their 8-bit copy while they are in the cache.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/parallel.hpp"
#include "cosine_topk/cosine_topk.hpp"
#include "cosine_topk/encoding.hpp"

namespace pymetaner {

constexpr std::int64_t kCenterRows = 256;  // whose mean is off by a sixteenth of what tells rows from each other

std::int64_t padded_dim(std::int64_t dim) {
    return (dim + kTileWidth - 1) / kTileWidth * kTileWidth;
}

std::int64_t panels_of(std::int64_t count, std::int64_t dim) {
    return dim > kMaxScreenedDim ? 0 : count / kPanelRows;
}

void center_of(const Rows& rows, float* center) {
    const std::int64_t step = std::max<std::int64_t>(1, rows.count / kCenterRows);
    const Kernels kernels = kernels_of(instruction_set());
    std::vector<double> sums(static_cast<std::size_t>(padded_dim(rows.dim)), 0.0);
    double taken = 0.0;
    for (std::int64_t i = 0; i < rows.count; i += step) {
        const float* const row = rows.row(i);
        double square = 0.0;
        kernels.dots(row, &row, 1, rows.dim, &square);
        if (!std::isfinite(square) || square == 0.0) continue;
        const double shrink = 1.0 / std::sqrt(square);
        for (std::int64_t j = 0; j < rows.dim; ++j) sums[static_cast<std::size_t>(j)] += shrink * row[j];
        taken += 1.0;
    }
    const auto mean = [taken](double sum) { return taken > 0.0 ? static_cast<float>(sum / taken) : 0.0F; };
    std::transform(sums.begin(), sums.end(), center, mean);
}

Encoder::Encoder(const Kernels& kernels, const Rows& rows, const Codes& codes)
    : kernels_(kernels), rows_(rows), codes_(codes), first_bad_(rows.count) {}

void Encoder::encode(std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
        // Squares of floats neither overflow nor vanish in float64, so a norm is finite exactly if every element of its
        // row is, and zero exactly if they all are.
        const float* const row = rows_.row(i);
        double square = 0.0;
        kernels_.dots(row, &row, 1, rows_.dim, &square);
        codes_.norms[i] = std::isfinite(square) ? std::sqrt(square) : 0.0;
        if (std::isfinite(square)) continue;
        std::int64_t seen = first_bad_.load();
        while (i < seen && !first_bad_.compare_exchange_weak(seen, i)) continue;
    }
    const std::int64_t padded = padded_dim(rows_.dim);
    std::vector<double> line(static_cast<std::size_t>(padded));
    for (std::int64_t i = first; i < std::min(last, codes_.panels * kPanelRows); i += kPanelRows) {
        kernels_.encode_panel(rows_.row(i), rows_.stride, rows_.dim, padded, codes_.norms + i, codes_.center,
                              line.data(), codes_.codes + i * padded, codes_.terms + i / kPanelRows);
    }
}

void Encoder::check(const char* name) const {
    if (first_bad_ == rows_.count) return;
    throw InvalidInput(std::string(name) + " row " + std::to_string(first_bad_) +
                       " holds NaN or an infinity: give finite vectors");
}

void encode(const Rows& rows, int threads, const Codes& codes) {
    Encoder encoder(kernels_of(instruction_set()), rows, codes);
    constexpr std::int64_t kRowsOfTask = 8 * kPanelRows;
    if (rows.count * rows.dim < kWorthThreads) threads = 1;
    parallel_for((rows.count + kRowsOfTask - 1) / kRowsOfTask, threads, [&](std::int64_t task, int) {
        encoder.encode(task * kRowsOfTask, std::min(rows.count, (task + 1) * kRowsOfTask));
    });
    encoder.check("bank");
}

}  // namespace pymetaner
