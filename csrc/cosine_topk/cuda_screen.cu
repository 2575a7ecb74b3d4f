// Screening products, each met by the maximum of its group where it was computed: the products never reach memory.
//
// Few queries: a warp reads the rows of a group and multiplies them with queries in shared memory. Many: blocks of
// warps that compute 64 x 64 products each on the tensor cores, from stages of 64 columns in shared memory that
// asynchronous copies keep filling ahead, also over the end of a tile. A row of a stage has 128 bytes; its pieces of 16
// are swapped about by the row's number, so that neither filling nor ldmatrix meets a bank twice.
#include <algorithm>

#include "cosine_topk/cuda_kernels.hpp"

namespace pymetaner {
namespace {

constexpr int kFewThreads = 256;
constexpr int kFewGroup = 4;
constexpr unsigned kAll = 0xFFFFFFFFU;
constexpr int kLine = 128;  // bytes of a row in a stage

__device__ double block_sum(double x) {
    __shared__ double sums[kFewThreads / 32];
    for (int half = 16; half > 0; half /= 2) x += __shfl_xor_sync(kAll, x, half);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0.0;
    for (double sum : sums) x += sum;
    __syncthreads();
    return x;
}

// Adds the products of eight elements.
__device__ float with_products(float sum, const uint4& packed, const float4& a, const float4& b) {
    const auto* const pairs = reinterpret_cast<const __half2*>(&packed);
    const float2 x = __half22float2(pairs[0]), y = __half22float2(pairs[1]);
    const float2 z = __half22float2(pairs[2]), w = __half22float2(pairs[3]);
    sum = __fmaf_rn(x.y, a.y, __fmaf_rn(x.x, a.x, sum));
    sum = __fmaf_rn(y.y, a.w, __fmaf_rn(y.x, a.z, sum));
    sum = __fmaf_rn(z.y, b.y, __fmaf_rn(z.x, b.x, sum));
    return __fmaf_rn(w.y, b.w, __fmaf_rn(w.x, b.z, sum));
}

template <int Queries>
__global__ void __launch_bounds__(kFewThreads) few_kernel(Screening task) {
    extern __shared__ __align__(16) unsigned char shared[];
    auto* const units = reinterpret_cast<float*>(shared);  // (Queries, padded_dim)
    const std::int64_t width = task.padded_dim;
    for (int q = 0; q < Queries; ++q) {
        const float* const row = task.rows + q * task.dim;
        double square = 0.0;
        for (std::int64_t i = threadIdx.x; i < task.dim; i += kFewThreads) {
            square += static_cast<double>(row[i]) * static_cast<double>(row[i]);
        }
        square = block_sum(square);
        const double inverse = !isfinite(square) ? nan("") : square > 0.0 ? 1.0 / sqrt(square) : 0.0;
        for (std::int64_t i = threadIdx.x; i < width; i += kFewThreads) {
            units[q * width + i] = i < task.dim ? static_cast<float>(row[i] * inverse) : 0.0F;
        }
    }
    __syncthreads();

    const std::int64_t groups = task.padded_bank / kFewGroup;
    const std::int64_t warps = static_cast<std::int64_t>(gridDim.x) * (kFewThreads / 32);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (std::int64_t g = (static_cast<std::int64_t>(blockIdx.x) * kFewThreads + threadIdx.x) / 32; g < groups;
         g += warps) {
        const __half* rows[kFewGroup];
        for (int r = 0; r < kFewGroup; ++r) rows[r] = task.bank + group_row(g, kFewGroup, r) * width;
        float sums[Queries][kFewGroup] = {};
        for (std::int64_t i = 8 * lane; i < width; i += 256) {
            uint4 packed[kFewGroup];
            for (int r = 0; r < kFewGroup; ++r) packed[r] = __ldg(reinterpret_cast<const uint4*>(rows[r] + i));
            for (int q = 0; q < Queries; ++q) {
                const auto* const unit = reinterpret_cast<const float4*>(units + q * width + i);
                const float4 a = unit[0], b = unit[1];
                for (int r = 0; r < kFewGroup; ++r) sums[q][r] = with_products(sums[q][r], packed[r], a, b);
            }
        }
        for (int q = 0; q < Queries; ++q) {
            for (float& sum : sums[q]) {
                for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(kAll, sum, half);
            }
            const float* const sum = sums[q];
            if (lane == 0) task.maxima[q * groups + g] = fmaxf(fmaxf(sum[0], sum[1]), fmaxf(sum[2], sum[3]));
        }
    }
}

__device__ void copy_async(unsigned to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

__device__ void end_of_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int Left>
__device__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}

// Four 8 x 8 matrices; each lane gives the address of one of their rows.
__device__ void load_matrices(unsigned (&out)[4], unsigned from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(from)
                 : "memory");
}

// sums (16 x 8) += left (16 x 16) right (16 x 8)
__device__ void multiply(float (&sums)[4], const unsigned (&left)[4], unsigned right0, unsigned right1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}

// Warps of a block side by side, over queries and over rows of the bank, and how many stages are in memory.
template <int QueryWarps, int BankWarps, int Stages>
struct Shape {
    static constexpr int kQueries = 64 * QueryWarps;
    static constexpr int kRows = 64 * BankWarps;
    static constexpr int kBankWarps = BankWarps;
    static constexpr int kThreads = 32 * QueryWarps * BankWarps;
    static constexpr int kStages = Stages;
    static constexpr int kStageBytes = (kQueries + kRows) * kLine;
    static constexpr int kBytes = Stages * kStageBytes;
};
using Thin = Shape<1, 2, 4>;
using Wide = Shape<2, 4, 3>;

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

// Adds the products of one stage to the 64 x 64 sums of a warp.
template <class Shape>
__device__ void multiply_stage(unsigned stage, float (&sums)[4][8][4]) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned left_row = warp / Shape::kBankWarps * 64 + lane % 16;
    const unsigned right_row = Shape::kQueries + warp % Shape::kBankWarps * 64 + lane / 16 * 8 + lane % 8;
#pragma unroll
    for (unsigned part = 0; part < 4; ++part) {
        const unsigned left_piece = (2 * part + lane / 16) ^ lane % 8;
        const unsigned right_piece = (2 * part + lane / 8 % 2) ^ lane % 8;
        unsigned left[4][4], right[4][4];
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            load_matrices(left[i], stage + (left_row + 16 * i) * kLine + left_piece * 16);
            load_matrices(right[i], stage + (right_row + 16 * i) * kLine + right_piece * 16);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int j = 0; j < 8; ++j)
                multiply(sums[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
        }
    }
}

// A lane has, of each of 8 queries, the products with 16 rows: 2 in every 8. They are one group, or four.
template <class Shape, int Group>
__device__ void write_maxima(const Cursor<Shape>& at, const float (&sums)[4][8][4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const std::int64_t groups = at.task.padded_bank / Group;
    const std::int64_t group = (at.first_row() + warp % Shape::kBankWarps * 64) / Group + lane % 4;
    const std::int64_t query = at.first_query() + warp / Shape::kBankWarps * 64 + lane / 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        float* const out = at.task.maxima + (query + 8 * i) * groups + group;
#pragma unroll
        for (int first = 0; first < 8; first += Group / 2) {
            float largest = sums[i / 2][first][i % 2 * 2];
#pragma unroll
            for (int j = first; j < first + Group / 2; ++j) {
                largest = fmaxf(largest, fmaxf(sums[i / 2][j][i % 2 * 2], sums[i / 2][j][i % 2 * 2 + 1]));
            }
            if (query + 8 * i < at.task.count) out[first / (Group / 2) * 4] = largest;
        }
    }
}

template <class Shape, int Group>
__global__ void __launch_bounds__(Shape::kThreads) many_kernel(const __grid_constant__ Screening task) {
    extern __shared__ __align__(16) unsigned char shared[];
    const auto stages = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    Cursor<Shape> loads(task), at(task);
    unsigned to = 0, from = 0;
    const auto load = [&] {
        if (loads.tile < loads.tiles) load_stage(loads, stages + to * Shape::kStageBytes);
        end_of_copies();  // also where nothing is left to copy: what is waited for is counted
        loads.next();
        to = to + 1 == Shape::kStages ? 0 : to + 1;
    };
    for (int i = 0; i + 1 < Shape::kStages; ++i) load();
    while (at.tile < at.tiles) {
        float sums[4][8][4] = {};
        for (int step = 0; step < at.steps; ++step) {
            wait_for_copies<Shape::kStages - 2>();
            __syncthreads();  // this stage is there for all, and all are done with the one that is filled next
            load();
            multiply_stage<Shape>(stages + from * Shape::kStageBytes, sums);
            from = from + 1 == Shape::kStages ? 0 : from + 1;
        }
        write_maxima<Shape, Group>(at, sums);
        at.step = at.steps - 1;
        at.next();
    }
    wait_for_copies<0>();
}

template <class Shape, int Group>
void launch_many(const Screening& task, cudaStream_t stream) {
    const std::int64_t tiles = (task.count + Shape::kQueries - 1) / Shape::kQueries * (task.padded_bank / Shape::kRows);
    const int processors = device_attribute(cudaDevAttrMultiProcessorCount);
    const int each =
        std::max(1, device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / (Shape::kBytes + 1024));
    const auto blocks = static_cast<unsigned>(std::min<std::int64_t>(tiles, processors * each));
    cudaFuncSetAttribute(many_kernel<Shape, Group>, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kBytes);
    many_kernel<Shape, Group><<<blocks, Shape::kThreads, Shape::kBytes, stream>>>(task);
    check_launched("screening");
}

}  // namespace

void screen_few(const Screening& task, cudaStream_t stream) {
    const std::int64_t warps = task.padded_bank / kFewGroup;
    const std::int64_t room = 8 * device_attribute(cudaDevAttrMultiProcessorCount);
    const auto blocks = static_cast<unsigned>(std::min(warps * 32 / kFewThreads, room));
    const auto shared = static_cast<std::size_t>(task.count * task.padded_dim) * sizeof(float);
    if (task.count == 1) few_kernel<1><<<blocks, kFewThreads, shared, stream>>>(task);
    if (task.count == 2) few_kernel<2><<<blocks, kFewThreads, shared, stream>>>(task);
    if (task.count == 3) few_kernel<3><<<blocks, kFewThreads, shared, stream>>>(task);
    if (task.count == 4) few_kernel<4><<<blocks, kFewThreads, shared, stream>>>(task);
    check_launched("screening");
}

void screen_many(const Screening& task, cudaStream_t stream) {
    const bool fits = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) >= Wide::kBytes;
    const auto launch = task.count <= Thin::kQueries || !fits
                            ? (task.group == 4 ? launch_many<Thin, 4> : launch_many<Thin, 16>)
                            : (task.group == 4 ? launch_many<Wide, 4> : launch_many<Wide, 16>);
    launch(task, stream);
}

}  // namespace pymetaner
