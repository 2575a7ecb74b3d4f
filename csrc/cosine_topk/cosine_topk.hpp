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

constexpr int kPanelRows = 16;  // rows of the bank that are screened together

// What the screening bound needs of each row of a panel beside its codes (see screening.hpp).
struct PanelTerms {
    float scales[kPanelRows];
    float residuals[kPanelRows];
    float lengths[kPanelRows];
    float offsets[kPanelRows];
};

// What `encode` knows of each row. The first `panels` * 16 rows have an 8-bit copy of what tells them from the centre;
// the others, at least those after the last whole panel, are scored exactly one by one.
struct Codes {
    std::int64_t panels;
    const float* center;  // (padded dim), from `center_of`: given to `encode`, not filled
    double* norms;        // (rows)
    std::int8_t* codes;   // (panels, padded dim / 4, 16, 4)
    PanelTerms* terms;    // (panels)
};

// The length of a row of the 8-bit copy.
std::int64_t padded_dim(std::int64_t dim);

// How many panels `count` rows of `dim` fill: none beyond 65,536 dimensions.
std::int64_t panels_of(std::int64_t count, std::int64_t dim);

// Writes a centre, padded_dim(rows.dim) floats: near the mean of the unit vectors of the rows, and no longer than 1.
// Any such vector gives the right answers; the nearer it is to the rows, the fewer have to be scored exactly.
void center_of(const Rows& rows, float* center);

// Fills `codes`, whose panels must be panels_of(rows.count, rows.dim), or 0 for the norms alone.
// Throws InvalidInput if a vector holds NaN or an infinity.
void encode(const Rows& rows, int threads, const Codes& codes);

// Writes, for each query, the k bank vectors of the largest cosine, in the order (score descending, index ascending).
//
// codes: what `encode` made of the bank.
// exclude: nullptr, or for each query the index of one bank vector that it may not find (-1: none).
// scores, indices: (queries.count, k), contiguous; places that no vector is left for get -infinity and -1.
//
// A score is dot / (|q| |b|) in float64, 0 if a vector is all zeros. Products of two floats are exact in float64,
// and they are added in one fixed order (see dot.hpp), so a pair of vectors has the same score, to the last bit, in
// any batch, at any place, with any number of threads and on any machine with IEEE arithmetic. The 8-bit copy only
// saves work: every vector that it cannot rule out is scored so. Scores are rounded to float32 only after they have
// been ordered.
//
// Throws InvalidInput if a query holds NaN or an infinity; shapes, k and `exclude` are the caller's to check.
void cosine_topk(const Rows& queries, const Rows& bank, const Codes& codes, const std::int64_t* exclude, std::int64_t k,
                 int threads, float* scores, std::int64_t* indices);

// The same for a bank that has not been encoded. Many queries are worth encoding it on the way; few are scored exactly.
void cosine_topk(const Rows& queries, const Rows& bank, const std::int64_t* exclude, std::int64_t k, int threads,
                 float* scores, std::int64_t* indices);

}  // namespace pymetaner
