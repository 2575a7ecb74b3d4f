// As on the CPU, bounds first and exact scores for what they leave in question; here the copies are bfloat16, for the
// tensor cores, and the bound is that of screening.hpp with residuals of bfloat16 and one term more: tensor cores add
// float32 with truncation, so a sum of n products of unit vectors is off by at most (n + 16) 2^-22.
//
// Few queries: one launch. Blocks score rows exactly, keep their k best, and the last block of a query to finish merges
// them. Many: a block multiplies 64 queries with a slice of the bank in tiles of 64 x 64, which go no further than
// shared memory, and keeps for each query the 32 highest bounds and the highest bound that it dropped. A second kernel
// scores what is kept, highest bounds first; a slice whose dropped bound reaches the k-th score is scored as a whole,
// so the answer is exact whatever the bank holds.
//
// Exact scores: eight threads a pair, one for each lane of dot.hpp, folded in the same order: the same bits.
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <mma.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cosine_topk/cuda.hpp"
#include "cosine_topk/ranking.hpp"

namespace pymetaner {
namespace {

using Bound = Ranked<float>;
using Exact = Ranked<double>;

constexpr int kThreads = 128;
constexpr int kPairs = kThreads / 8;  // scored exactly at a time
constexpr unsigned kAll = 0xFFFFFFFFU;

__host__ __device__ std::int64_t padded(std::int64_t dim) {
    return (dim + kCudaStep - 1) / kCudaStep * kCudaStep;
}

// The dot product of two rows, for all eight threads of a group; dot.hpp tells its order.
__device__ double exact_dot(const float* a, const float* b, std::int64_t dim, int lane) {
    double sum = 0.0;
    for (std::int64_t i = lane; i < dim; i += 8) {
        sum = __dadd_rn(sum, __dmul_rn(static_cast<double>(a[i]), static_cast<double>(b[i])));
    }
    for (int half = 4; half > 0; half /= 2) sum = __dadd_rn(sum, __shfl_xor_sync(kAll, sum, half, 8));
    return sum;
}

__device__ std::int64_t smaller(std::int64_t a, std::int64_t b) {
    return a < b ? a : b;
}

// The norm of a row, -1 if it is not finite, for all eight threads of a group.
__device__ double norm_of(const CudaRows& rows, std::int64_t row, int lane) {
    if (rows.norms != nullptr) return rows.norms[row];
    const float* const given = rows.rows + row * rows.dim;
    const double square = exact_dot(given, given, rows.dim, lane);
    return isfinite(square) ? sqrt(square) : -1.0;
}

// Eight threads a row.
__global__ void encode_kernel(CudaRows rows) {
    const std::int64_t row = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 8;
    const int lane = static_cast<int>(threadIdx.x) % 8;
    const bool real = row < rows.count;
    const float* const given = rows.rows + (real ? row : 0) * rows.dim;
    const double square = exact_dot(given, given, rows.dim, lane);
    const bool finite = isfinite(square);
    const double norm = finite ? sqrt(square) : -1.0;
    if (real && lane == 0) rows.norms[row] = norm;
    if (rows.copy == nullptr) return;
    const std::int64_t width = padded(rows.dim);
    const std::int64_t tiled = (rows.count + kCudaTile - 1) / kCudaTile * kCudaTile;
    auto* const copy = static_cast<__nv_bfloat16*>(rows.copy) + row * width;
    double error = 0.0;
    for (std::int64_t i = lane; i < width && row < tiled; i += 8) {
        const double unit = real && i < rows.dim && norm > 0.0 ? given[i] / norm : 0.0;
        const __nv_bfloat16 rounded = __double2bfloat16(unit);
        const double off = unit - static_cast<double>(__bfloat162float(rounded));
        error += off * off;
        copy[i] = rounded;
    }
    for (int half = 4; half > 0; half /= 2) error += __shfl_xor_sync(kAll, error, half, 8);
    if (real && lane == 0) rows.residuals[row] = static_cast<float>(sqrt(error) * (1.0 + 1e-6));
}

// What a block knows of one query: its k best, sorted, to which the block's threads offer rows in turns.
struct Best {
    Exact list[kCudaMaxK];
    int size;
    Exact round[kPairs];

    __device__ double limit(int k) const { return size < k ? -INFINITY : list[k - 1].score; }
};

// Scores a row for each group of eight threads, -1 for none, and offers them all. Called by the whole block.
__device__ void offer(const CudaTopk& task, std::int64_t query, std::int64_t row, Best& best) {
    const int lane = static_cast<int>(threadIdx.x) % 8, group = static_cast<int>(threadIdx.x) / 8;
    const std::int64_t place = row < 0 ? 0 : row;
    const double dot = exact_dot(task.queries.rows + query * task.queries.dim, task.bank.rows + place * task.bank.dim,
                                 task.bank.dim, lane);
    const double query_norm = norm_of(task.queries, query, lane), row_norm = norm_of(task.bank, place, lane);
    if (lane == 0) {
        const double norm = query_norm * row_norm;
        const bool out =
            row < 0 || query_norm < 0.0 || row_norm < 0.0 || (task.exclude != nullptr && task.exclude[query] == row);
        best.round[group] = {norm > 0.0 ? dot / norm : 0.0, out ? -1 : row};
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double dropped = 0.0;
        for (const Exact& item : best.round) {
            if (item.index >= 0) insert(best.list, static_cast<int>(task.k), &best.size, item, &dropped);
        }
    }
    __syncthreads();
}

__device__ void write(const CudaTopk& task, std::int64_t query, const Best& best) {
    const int place = static_cast<int>(threadIdx.x);
    if (place >= task.k) return;
    const bool found = place < best.size;
    task.scores[query * task.k + place] = found ? static_cast<float>(best.list[place].score) : -INFINITY;
    task.indices[query * task.k + place] = found ? best.list[place].index : -1;
}

// Few queries. Workspace: a ticket for each query, then k items for each query and block.
__global__ void __launch_bounds__(kThreads) exact_kernel(CudaTopk task) {
    __shared__ Best best;
    __shared__ bool last;
    const std::int64_t query = blockIdx.y, block = blockIdx.x, blocks = gridDim.x;
    auto* const tickets = static_cast<unsigned*>(task.workspace);
    auto* const items = reinterpret_cast<Exact*>(static_cast<char*>(task.workspace) + 16 * gridDim.y);
    if (threadIdx.x == 0) best.size = 0;
    __syncthreads();
    const std::int64_t end = smaller((block + 1) * kCudaExactRows, task.bank.count);
    for (std::int64_t first = block * kCudaExactRows; first < end; first += kPairs) {
        const std::int64_t row = first + threadIdx.x / 8;
        offer(task, query, row < end ? row : -1, best);
    }
    Exact* const own = items + (query * blocks + block) * kCudaMaxK;
    if (threadIdx.x < kCudaMaxK) {
        const bool found = static_cast<int>(threadIdx.x) < best.size;
        own[threadIdx.x] = found ? best.list[threadIdx.x] : Exact{0.0, -1};
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(&tickets[4 * query], 1U) == static_cast<unsigned>(blocks - 1);
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) {
        double dropped = 0.0;
        best.size = 0;
        for (std::int64_t i = 0; i < blocks; ++i) {
            for (int j = 0; j < task.k; ++j) {  // sorted: the first that does not come in ends the list
                const Exact item = items[(query * blocks + i) * kCudaMaxK + j];
                if (item.index < 0) break;
                if (insert(best.list, static_cast<int>(task.k), &best.size, item, &dropped) && dropped == item.score)
                    break;
            }
        }
    }
    __syncthreads();
    write(task, query, best);
}

// Many queries, workspace: kept bounds (queries, slices, kCudaKept), then their number and the dropped bound.
struct Kept {
    Bound list[kCudaKept];
    int size;
    float dropped;
};

__global__ void __launch_bounds__(kThreads) screen_kernel(CudaTopk task) {
    using namespace nvcuda;
    __shared__ __align__(32) float scores[kCudaTile][kCudaTile + 4];
    const std::int64_t width = padded(task.bank.dim);
    const std::int64_t first_query = static_cast<std::int64_t>(blockIdx.x) * kCudaTile;
    const std::int64_t tiles = (task.bank.count + kCudaTile - 1) / kCudaTile;
    const std::int64_t begin = tiles * blockIdx.y / task.slices, end = tiles * (blockIdx.y + 1) / task.slices;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const auto* const queries =
        static_cast<const __nv_bfloat16*>(task.queries.copy) + (first_query + 16 * warp) * width;

    // Each of the first 64 threads keeps the bounds of one query, in the workspace.
    const std::int64_t query = first_query + threadIdx.x;
    const bool keeps = threadIdx.x < kCudaTile && query < task.queries.count;
    Kept* const kept = static_cast<Kept*>(task.workspace) + (keeps ? query * task.slices + blockIdx.y : 0);
    const float residual = keeps ? task.queries.residuals[query] : 0.0F;
    const float slack = residual + (static_cast<float>(width) + 16.0F) * 0x1p-22F + 4e-6F;
    int size = 0;
    float dropped = -INFINITY, lowest = -INFINITY;

    for (std::int64_t tile = begin; tile < end; ++tile) {
        const auto* const bank = static_cast<const __nv_bfloat16*>(task.bank.copy) + tile * kCudaTile * width;
        wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums[4];
        for (auto& sum : sums) wmma::fill_fragment(sum, 0.0F);
        for (std::int64_t i = 0; i < width; i += 16) {
            wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::row_major> left;
            wmma::load_matrix_sync(left, queries + i, static_cast<unsigned>(width));
            for (int part = 0; part < 4; ++part) {
                wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::col_major> right;
                wmma::load_matrix_sync(right, bank + 16 * part * width + i, static_cast<unsigned>(width));
                wmma::mma_sync(sums[part], left, right, sums[part]);
            }
        }
        for (int part = 0; part < 4; ++part) {
            wmma::store_matrix_sync(&scores[16 * warp][16 * part], sums[part], kCudaTile + 4, wmma::mem_row_major);
        }
        __syncthreads();
        const std::int64_t row = tile * kCudaTile;
        const int count = static_cast<int>(smaller(kCudaTile, task.bank.count - row));
        for (int r = 0; keeps && r < count; ++r) {
            const float bound = scores[threadIdx.x][r] + ((1.0F + residual) * task.bank.residuals[row + r] + slack);
            if (bound < lowest) {
                dropped = fmaxf(dropped, bound);
                continue;
            }
            float gone = -INFINITY;
            if (insert(kept->list, kCudaKept, &size, {bound, row + r}, &gone)) dropped = fmaxf(dropped, gone);
            if (size == kCudaKept) lowest = kept->list[kCudaKept - 1].score;
        }
        __syncthreads();
    }
    if (keeps) {
        kept->size = size;
        kept->dropped = dropped;
    }
}

// One block a query: exact scores of what the slices kept.
__global__ void __launch_bounds__(kThreads) finish_kernel(CudaTopk task) {
    __shared__ Best best;
    const std::int64_t query = blockIdx.x;
    const Kept* const kept = static_cast<const Kept*>(task.workspace) + query * task.slices;
    if (threadIdx.x == 0) best.size = 0;
    __syncthreads();
    const auto group = static_cast<std::int64_t>(threadIdx.x) / 8;
    // The highest bounds of all slices first, so that the k-th score soon rules out the rest.
    for (int rank = 0; rank < kCudaKept; ++rank) {
        for (std::int64_t first = 0; first < task.slices; first += kPairs) {
            const std::int64_t slice = first + group;
            const double limit = best.limit(static_cast<int>(task.k));
            std::int64_t row = -1;
            if (slice < task.slices && rank < kept[slice].size && kept[slice].list[rank].score >= limit) {
                row = kept[slice].list[rank].index;
            }
            if (__syncthreads_or(row >= 0 ? 1 : 0)) offer(task, query, row, best);
        }
    }
    // Slices that may have dropped one of the k best are scored as a whole.
    const std::int64_t tiles = (task.bank.count + kCudaTile - 1) / kCudaTile;
    for (std::int64_t slice = 0; slice < task.slices; ++slice) {
        const float dropped = kept[slice].dropped;
        const bool ruled_out = dropped == -INFINITY || dropped < best.limit(static_cast<int>(task.k));
        __syncthreads();  // everybody has read the limit before it changes
        if (ruled_out) continue;
        if (threadIdx.x == 0) {  // what came from this slice comes again
            const std::int64_t begin = tiles * slice / task.slices * kCudaTile;
            const std::int64_t end = tiles * (slice + 1) / task.slices * kCudaTile;
            int left = 0;
            for (int i = 0; i < best.size; ++i) {
                if (best.list[i].index < begin || best.list[i].index >= end) best.list[left++] = best.list[i];
            }
            best.size = left;
        }
        __syncthreads();
        const std::int64_t begin = tiles * slice / task.slices * kCudaTile;
        const std::int64_t end = smaller(tiles * (slice + 1) / task.slices * kCudaTile, task.bank.count);
        for (std::int64_t first = begin; first < end; first += kPairs) {
            offer(task, query, first + group < end ? first + group : -1, best);
        }
    }
    __syncthreads();
    write(task, query, best);
}

void check(const char* what) {
    const cudaError_t status = cudaGetLastError();
    if (status == cudaSuccess) return;
    throw std::runtime_error(std::string(what) + " could not be launched: " + cudaGetErrorString(status));
}

unsigned blocks_of(std::int64_t items, std::int64_t each) {
    return static_cast<unsigned>((items + each - 1) / each);
}

}  // namespace

void cuda_encode(const CudaRows& rows, std::uintptr_t stream) {
    const std::int64_t tiled = static_cast<std::int64_t>(blocks_of(rows.count, kCudaTile)) * kCudaTile;
    if (tiled == 0) return;
    encode_kernel<<<blocks_of(tiled * 8, kThreads), kThreads, 0, reinterpret_cast<cudaStream_t>(stream)>>>(rows);
    check("encoding");
}

std::int64_t cuda_slices(std::int64_t queries, std::int64_t bank, int processors) {
    if (queries <= kCudaFewQueries) return std::max<std::int64_t>(1, blocks_of(bank, kCudaExactRows));
    const std::int64_t wanted = blocks_of(4 * processors, blocks_of(queries, kCudaTile));
    return std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(1, blocks_of(bank, 4 * kCudaTile)));
}

std::size_t cuda_workspace(std::int64_t queries, std::int64_t slices) {
    const auto pairs = static_cast<std::size_t>(queries * slices);
    if (queries <= kCudaFewQueries) return 16 * static_cast<std::size_t>(queries) + pairs * kCudaMaxK * sizeof(Exact);
    return pairs * sizeof(Kept);
}

void cuda_cosine_topk(const CudaTopk& task, std::uintptr_t stream) {
    if (task.queries.count == 0) return;
    const auto queue = reinterpret_cast<cudaStream_t>(stream);
    const auto slices = static_cast<unsigned>(task.slices);
    if (task.queries.count <= kCudaFewQueries) {
        exact_kernel<<<dim3(slices, static_cast<unsigned>(task.queries.count)), kThreads, 0, queue>>>(task);
        return check("the search");
    }
    screen_kernel<<<dim3(blocks_of(task.queries.count, kCudaTile), slices), kThreads, 0, queue>>>(task);
    check("screening");
    finish_kernel<<<static_cast<unsigned>(task.queries.count), kThreads, 0, queue>>>(task);
    check("scoring");
}

}  // namespace pymetaner
