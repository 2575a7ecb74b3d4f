// Exact nearest neighbours by cosine similarity.
#pragma once

#include <cstdint>

namespace pymetaner {

// `count` vectors of `dim` floats each; one vector is contiguous, the next starts `stride` floats further.
struct Rows {
    const float* data;
    std::int64_t count;
    std::int64_t dim;
    std::int64_t stride;

    const float* row(std::int64_t i) const { return data + i * stride; }
};

// Writes, for each query, the k bank vectors of the largest cosine, in the order (score descending, index ascending).
//
// exclude: nullptr, or for each query the index of one bank vector that it may not find (-1: none).
// scores, indices: (queries.count, k), contiguous; places that no vector is left for get -infinity and -1.
//
// A score is dot / (|q| |b|) in float64, 0 if a vector is all zeros. Products of two floats are exact in float64,
// and they are added in one fixed order (see dot.hpp), so a pair of vectors has the same score, to the last bit, in
// any batch, at any place, with any number of threads and on any machine with IEEE arithmetic. Scores are rounded to
// float32 only after they have been ordered.
//
// Throws InvalidInput if a vector holds NaN or an infinity; shapes, k and `exclude` are the caller's to check.
void cosine_topk(const Rows& queries, const Rows& bank, const std::int64_t* exclude, std::int64_t k, int threads,
                 float* scores, std::int64_t* indices);

}  // namespace pymetaner
