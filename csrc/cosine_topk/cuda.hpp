// Exact cosine top-k on CUDA, on the caller's stream and in the caller's workspace, nothing read back.
//
// Encoded rows are float16 unit vectors. A screening product of two of them is close to their cosine:
//
// THE BOUND. Let u and v be unit vectors of dim elements, U and V what float16 makes of them. Rounding moves an element
// by at most 2^-11 of itself, or by 2^-25 where float16 is denormal, so |u - U| <= r = 2^-11 + 2^-25 sqrt(dim) and
// |U| <= 1 + r, and by Cauchy and Schwarz
//     |u.v - U.V| <= |u.(v - V)| + |(u - U).V| <= r + r (1 + r).
// U.V is computed in float32. The products of float16 numbers are exact there; tensor cores add them with truncation,
// in an order that nobody tells, but each of the at most n = padded dim additions is off by at most 2^-22 of the sum of
// the sizes of all products, and that sum is at most |U| |V|. So
//     |u.v - computed| <= E = 2 r + r^2 + (n + 16) 2^-22 (1 + r)^2 + 1e-6,
// the last for what float64 and float32 round elsewhere: units, thresholds, and the exact score's own (dim + 8) 2^-52.
// A vector of zeros has U = 0 and scores 0.
//
// WHAT FOLLOWS. Of any k different rows the least exact score is at most the k-th best, and at least the least
// screening product among them - E. So a row among the k best has a product of at least t - 2 E, for every t that is at
// most the k-th largest product. The maximum of a group of rows is the product of one of them, and groups share no row,
// so the k-th largest maximum is such a t; and only groups whose maximum is at least t - 2 E have to be scored exactly.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pymetaner {

constexpr int kCudaMaxK = 1024;
constexpr int kCudaTile = 256;      // what the number of encoded rows is padded to
constexpr int kCudaStep = 64;       // what their length is padded to
constexpr int kCudaFewQueries = 4;  // up to here no tensor cores are needed: reading the bank is what takes the time

// Pointers into device memory: rows (count, dim) float32, contiguous, and what cuda_encode makes of them.
struct CudaRows {
    const float* rows;
    std::int64_t count, dim;
    double* norms;  // (count); -1 for a row that is not finite
    void* copy;     // (count, dim), each padded: float16 unit vectors; NaN for padding rows and those not finite
};

struct CudaTopk {
    const float* queries;  // (count, bank.dim), contiguous
    std::int64_t count;
    CudaRows bank;                // encoded
    const std::int64_t* exclude;  // nullptr or (count)
    std::int64_t k;               // at most kCudaMaxK
    void* workspace;              // cuda_plan's bytes, aligned to 256
    float* scores;                // (count, k)
    std::int64_t* indices;        // (count, k)
};

// How a search is done.
struct CudaPlan {
    bool few;               // no tensor cores, queries not encoded
    int group;              // rows that share a maximum
    std::int64_t groups;    // of the padded bank
    std::int64_t batch;     // queries searched at a time
    std::size_t copies_at;  // where in the workspace encoded queries are, behind their norms,
    std::size_t maxima_at;  // and the maxima (batch, groups)
    std::size_t bytes;
};

CudaPlan cuda_plan(std::int64_t queries, std::int64_t bank, std::int64_t dim);

// E.
double cuda_error(std::int64_t dim);

// Fills norms and copy.
void cuda_encode(const CudaRows& rows, std::uintptr_t stream);

// The same answer as cosine_topk, except that a row that is not finite is never found, and a query that is not finite
// finds nothing: to tell the host would mean to wait for the device. Like cuda_encode it throws std::runtime_error if
// it cannot be launched.
void cuda_cosine_topk(const CudaTopk& task, std::uintptr_t stream);

}  // namespace pymetaner
