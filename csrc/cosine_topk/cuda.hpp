// Exact cosine top-k on CUDA, on the caller's stream and in the caller's workspace, nothing read back.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pymetaner {

constexpr int kCudaMaxK = 32;
constexpr int kCudaKept = 32;        // vectors that stay in question for a query and a slice of the bank
constexpr int kCudaTile = 64;        // queries, and rows, that a block multiplies at a time
constexpr int kCudaStep = 16;        // what encoded rows are padded to
constexpr int kCudaFewQueries = 4;   // up to here everything is scored exactly, in one launch
constexpr int kCudaExactRows = 128;  // rows of a block of that launch

// Pointers into device memory: rows (count, dim) float32, contiguous, and what cuda_encode makes of them.
struct CudaRows {
    const float* rows;
    std::int64_t count, dim;
    double* norms;     // (count); -1 for a row that is not finite
    void* copy;        // (count rounded up to whole tiles, padded dim) bfloat16, unit vectors
    float* residuals;  // (count)
};

struct CudaTopk {
    CudaRows queries, bank;
    const std::int64_t* exclude;  // nullptr or (queries)
    std::int64_t k;               // at most kCudaMaxK
    std::int64_t slices;          // of the bank, from cuda_slices
    void* workspace;              // cuda_workspace bytes, aligned to 16; for few queries all zeros
    float* scores;                // (queries, k)
    std::int64_t* indices;        // (queries, k)
};

// Norms, unit bfloat16 copies and residuals; the norms alone where there is no copy.
void cuda_encode(const CudaRows& rows, std::uintptr_t stream);

std::int64_t cuda_slices(std::int64_t queries, std::int64_t bank, int processors);
std::size_t cuda_workspace(std::int64_t queries, std::int64_t slices);

// The same answer as cosine_topk, except that a row that is not finite is never found, and a query that is not finite
// finds nothing: to tell the host would mean to wait for the device. Like cuda_encode it throws std::runtime_error if
// it cannot be launched.
void cuda_cosine_topk(const CudaTopk& task, std::uintptr_t stream);

}  // namespace pymetaner
