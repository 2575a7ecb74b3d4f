// Tiles of products and the stages that they are made of, for the files that multiply on tensor cores; for nvcc.
//
// A stage is 64 columns of the queries and of the rows of a tile, in shared memory, 128 bytes each, one after the
// other. Its pieces of 16 bytes are swapped about by the row's number, so that neither filling nor reading meets a bank
// twice; it is the order that wgmma calls a swizzle of 128 bytes.
#pragma once

#include "cosine_topk/cuda_kernels.hpp"

namespace pymetaner {
namespace {

constexpr int kLine = 128;  // bytes of a row in a stage

__device__ inline void copy_async(unsigned to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

__device__ inline void end_of_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int Left>
__device__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}

// The tiles of a block, one after the other, and of each the stages: 64 columns of all its queries and rows.
template <class Shape>
struct Cursor {
    const Screening& task;
    unsigned tile, tiles, query_tiles;
    int step, steps;
    const __half* queries;
    const __half* rows;

    __device__ explicit Cursor(const Screening& of)
        : task(of),
          tile(blockIdx.x),
          query_tiles(static_cast<unsigned>((of.count + Shape::kQueries - 1) / Shape::kQueries)),
          step(0),
          steps(static_cast<int>(of.padded_dim / kCudaStep)) {
        tiles = query_tiles * static_cast<unsigned>(of.padded_bank / Shape::kRows);
        place();
    }

    // Query tiles go fastest: blocks that run together share rows of the bank.
    __device__ std::int64_t first_query() const { return tile % query_tiles * Shape::kQueries; }
    __device__ std::int64_t first_row() const { return static_cast<std::int64_t>(tile / query_tiles) * Shape::kRows; }

    __device__ void place() {
        queries = task.queries + first_query() * task.padded_dim;
        rows = task.bank + first_row() * task.padded_dim;
    }

    __device__ void next() {
        if (++step < steps) return;
        step = 0;
        tile += gridDim.x;
        if (tile < tiles) place();
    }
};

template <class Shape>
__device__ void load_stage(const Cursor<Shape>& at, unsigned stage) {
    constexpr int kRowsAtOnce = Shape::kThreads / 8;
    const unsigned first = threadIdx.x / 8, piece = threadIdx.x % 8;
    const std::int64_t width = at.task.padded_dim;
    const std::int64_t offset = first * width + at.step * kCudaStep + piece * 8;
    const unsigned to = stage + first * kLine + (piece ^ first % 8) * 16;
#pragma unroll
    for (int row = 0; row < Shape::kQueries; row += kRowsAtOnce) {
        copy_async(to + row * kLine, at.queries + offset + row * width);
    }
#pragma unroll
    for (int row = 0; row < Shape::kRows; row += kRowsAtOnce) {
        copy_async(to + (Shape::kQueries + row) * kLine, at.rows + offset + row * width);
    }
}

}  // namespace
}  // namespace pymetaner
