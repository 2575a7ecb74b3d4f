// Encoding, and exact scores of what screening leaves: cuda.hpp tells what that is and why the answer is exact.
//
// One block a query. From the maxima of all groups it gets a lower bound of the k-th largest, the groups that reach it
// go on a list, and the rows of those are scored exactly. If the list overflows, as where thousands of rows are nearly
// as close as the k-th, all rows are scored, so the answer is exact whatever the bank holds.
//
// Exact scores: eight threads a pair, one for each lane of dot.hpp, folded in the same order: the same bits.
#include <algorithm>
#include <cmath>

#include "cosine_topk/cuda_kernels.hpp"

namespace pymetaner {
namespace {

constexpr int kThreads = 256;
constexpr int kPairs = kThreads / 8;  // scored exactly at a time
constexpr int kBuckets = 8;           // a thread's, of maxima; all together they have to be more than kCudaMaxK
constexpr unsigned kAll = 0xFFFFFFFFU;
static_assert(kThreads * kBuckets > kCudaMaxK);

// The dot product of two rows, for all eight threads of a group; dot.hpp tells its order.
__device__ double exact_dot(const float* a, const float* b, std::int64_t dim, int lane) {
    double sum = 0.0;
#pragma unroll 8
    for (std::int64_t i = lane; i < dim; i += 8) {
        sum = __dadd_rn(sum, __dmul_rn(static_cast<double>(a[i]), static_cast<double>(b[i])));
    }
    for (int half = 4; half > 0; half /= 2) sum = __dadd_rn(sum, __shfl_xor_sync(kAll, sum, half, 8));
    return sum;
}

// -1 for a row that is not finite.
__device__ double exact_norm(const float* row, std::int64_t dim, int lane) {
    const double square = exact_dot(row, row, dim, lane);
    return isfinite(square) ? sqrt(square) : -1.0;
}

// One warp a row.
__global__ void __launch_bounds__(kThreads) encode_kernel(CudaRows rows, std::int64_t width, std::int64_t padded) {
    const std::int64_t row = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (row >= padded) return;
    const bool real = row < rows.count;
    const float* const given = rows.rows + (real ? row : 0) * rows.dim;
    const double norm = exact_norm(given, rows.dim, lane % 8);
    if (real && lane == 0) rows.norms[row] = norm;
    const double inverse = !real || norm < 0.0 ? nan("") : norm > 0.0 ? 1.0 / norm : 0.0;
    auto* const copy = static_cast<__half*>(rows.copy) + row * width;
    for (std::int64_t i = lane; i < width; i += 32) {
        copy[i] = __double2half(i < rows.dim ? given[i] * inverse : 0.0 * inverse);
    }
}

struct Finish {
    const float* maxima;
    std::int64_t groups;
    int group;
    const float* queries;
    const double* norms;  // of the queries, or nullptr
    CudaRows bank;
    const std::int64_t* exclude;
    int k, room;
    float margin;  // 2 E
    float* scores;
    std::int64_t* indices;
};

// A value that at least `wanted` of the numbers reach, close to the largest such, or minus infinity if there are too
// few; NaN does not count. Each bucket stands for its largest number. Called by the whole block.
__device__ float reached_by(const float* numbers, std::int64_t count, int wanted) {
    __shared__ int counts[2][kThreads / 32];
    unsigned keys[kBuckets] = {};
    for (std::int64_t first = threadIdx.x; first < count; first += kThreads * kBuckets) {
#pragma unroll
        for (int b = 0; b < kBuckets; ++b) {
            const std::int64_t i = first + b * kThreads;
            if (i < count) keys[b] = max(keys[b], order_key(numbers[i]));
        }
    }
    unsigned found = 0;
    for (int bit = 31; bit >= 12; --bit) {  // 11 bits of the fraction: the rest could rule out next to nothing
        const unsigned trial = found | 1U << bit;
        int own = 0;
#pragma unroll
        for (const unsigned key : keys) own += key >= trial ? 1 : 0;
        own = __reduce_add_sync(kAll, own);
        if (threadIdx.x % 32 == 0) counts[bit % 2][threadIdx.x / 32] = own;
        __syncthreads();
        int all = 0;
        for (const int part : counts[bit % 2]) all += part;
        if (all >= wanted) found = trial;
    }
    return found == 0 ? -INFINITY : float_of_key(found);
}

// Sorts the first `size` items; there is room for the next power of two. Called by the whole block.
__device__ void sort(Ranked* items, int size) {
    const int thread = static_cast<int>(threadIdx.x);
    int width = 1;
    while (width < size) width *= 2;
    for (int i = size + thread; i < width; i += kThreads) items[i] = {-INFINITY, INT64_MAX};
    __syncthreads();
    for (int span = 2; span <= width; span *= 2) {
        for (int step = span / 2; step > 0; step /= 2) {
            for (int i = thread; i < width; i += kThreads) {
                const int other = i ^ step;
                if (other < i || ranks_before(items[other], items[i]) != ((i & span) == 0)) continue;
                const Ranked item = items[i];
                items[i] = items[other];
                items[other] = item;
            }
            __syncthreads();
        }
    }
}

__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ Finish task) {
    extern __shared__ __align__(16) unsigned char shared[];
    auto* const best = reinterpret_cast<Ranked*>(shared);                // room
    auto* const listed = reinterpret_cast<unsigned*>(best + task.room);  // 2 * room: groups to be scored
    __shared__ int size, groups_left;

    const int thread = static_cast<int>(threadIdx.x), lane = thread % 8;
    const std::int64_t query = blockIdx.x, dim = task.bank.dim;
    const std::int64_t excluded = task.exclude == nullptr ? -1 : task.exclude[query];
    const float* const maxima = task.maxima + query * task.groups;
    if (thread == 0) size = groups_left = 0;
    const float limit = reached_by(maxima, task.groups, task.k + (excluded >= 0 ? 1 : 0)) - task.margin;
    for (std::int64_t g = thread; g < task.groups; g += kThreads) {
        if (!(maxima[g] >= limit)) continue;
        const int place = atomicAdd(&groups_left, 1);
        if (place < 2 * task.room) listed[place] = static_cast<unsigned>(g);
    }
    const float* const row = task.queries + query * dim;
    const double norm = task.norms == nullptr ? exact_norm(row, dim, lane) : task.norms[query];
    __syncthreads();

    const bool all = groups_left > 2 * task.room;
    const std::int64_t total = all ? task.bank.count : static_cast<std::int64_t>(groups_left) * task.group;
    Ranked last{-INFINITY, INT64_MAX};  // what a row has to rank before
    for (std::int64_t first = 0; first < total; first += kPairs) {
        const std::int64_t i = first + thread / 8;
        std::int64_t other = i;
        if (!all && i < total) other = group_row(listed[i / task.group], task.group, static_cast<int>(i % task.group));
        const bool real = i < total && other < task.bank.count;
        const std::int64_t place = real ? other : 0;
        const double dot = exact_dot(row, task.bank.rows + place * dim, dim, lane);
        if (real && lane == 0) {
            const double other_norm = task.bank.norms[place], norms = norm * other_norm;
            const Ranked item{norms > 0.0 ? dot / norms : 0.0, other};
            if (norm >= 0.0 && other_norm >= 0.0 && other != excluded && ranks_before(item, last)) {
                best[atomicAdd(&size, 1)] = item;
            }
        }
        __syncthreads();
        const int held = size;
        __syncthreads();  // everybody has read the size before it changes
        if (held + kPairs <= task.room) continue;
        sort(best, held);
        last = best[task.k - 1];
        if (thread == 0) size = task.k;
        __syncthreads();
    }
    const int held = size;
    sort(best, held);
    for (int place = thread; place < task.k; place += kThreads) {
        const bool found = place < held;
        task.scores[query * task.k + place] = found ? static_cast<float>(best[place].score) : -INFINITY;
        task.indices[query * task.k + place] = found ? best[place].index : -1;
    }
}

// Room for the k best and for what is scored before they are sorted again.
int room_of(std::int64_t k) {
    int room = 256;
    while (room < 2 * k) room *= 2;
    return room;
}

constexpr std::int64_t kMaximaBytes = std::int64_t{1} << 28;  // of a batch of queries, about
constexpr std::int64_t kFewFloats = 12 * 1024 - 64;           // of queries: 48 KB hold them and a block's sums
constexpr std::int64_t kManyRows = 1 << 16;                   // from here on maxima of 16 rows: fewer bytes

}  // namespace

CudaPlan cuda_plan(std::int64_t queries, std::int64_t bank, std::int64_t dim) {
    const std::int64_t width = rounded_up(dim, kCudaStep);
    CudaPlan plan{};
    plan.few = queries <= kCudaFewQueries && queries * width <= kFewFloats;
    plan.group = plan.few || bank < kManyRows ? 4 : 16;
    plan.groups = rounded_up(bank, kCudaTile) / plan.group;
    const std::int64_t each = std::max<std::int64_t>(1, plan.groups * static_cast<std::int64_t>(sizeof(float)));
    plan.batch = std::min(queries, std::max<std::int64_t>(128, kMaximaBytes / each / 128 * 128));
    const std::int64_t padded = plan.few ? 0 : rounded_up(plan.batch, kCudaTile);
    plan.copies_at = static_cast<std::size_t>(padded) * sizeof(double);
    plan.maxima_at = plan.copies_at + static_cast<std::size_t>(padded * width) * sizeof(__half);
    plan.bytes = plan.maxima_at + static_cast<std::size_t>(plan.batch * each);
    return plan;
}

double cuda_error(std::int64_t dim) {
    const double r = 0x1p-11 + 0x1p-25 * std::sqrt(static_cast<double>(dim));
    const double added = static_cast<double>(rounded_up(dim, kCudaStep) + 16) * 0x1p-22;
    return 2 * r + r * r + added * (1 + r) * (1 + r) + 1e-6;
}

void cuda_encode(const CudaRows& rows, std::uintptr_t stream) {
    const std::int64_t padded = rounded_up(rows.count, kCudaTile);
    if (padded == 0) return;
    const auto blocks = static_cast<unsigned>(padded * 32 / kThreads);
    encode_kernel<<<blocks, kThreads, 0, reinterpret_cast<cudaStream_t>(stream)>>>(
        rows, rounded_up(rows.dim, kCudaStep), padded);
    check_launched("encoding");
}

void cuda_cosine_topk(const CudaTopk& task, std::uintptr_t stream) {
    const std::int64_t dim = task.bank.dim;
    const CudaPlan plan = cuda_plan(task.count, task.bank.count, dim);
    auto* const workspace = static_cast<char*>(task.workspace);
    auto* const norms = reinterpret_cast<double*>(workspace);
    auto* const maxima = reinterpret_cast<float*>(workspace + plan.maxima_at);
    const auto queue = reinterpret_cast<cudaStream_t>(stream);
    const int room = room_of(task.k);
    for (std::int64_t first = 0; first < task.count; first += plan.batch) {
        const std::int64_t count = std::min(plan.batch, task.count - first);
        const float* const queries = task.queries + first * dim;
        const auto* const copies = reinterpret_cast<const __half*>(workspace + plan.copies_at);
        if (!plan.few) cuda_encode({queries, count, dim, norms, workspace + plan.copies_at}, stream);
        const Screening screening{queries,
                                  copies,
                                  static_cast<const __half*>(task.bank.copy),
                                  count,
                                  dim,
                                  rounded_up(dim, kCudaStep),
                                  plan.groups * plan.group,
                                  plan.group,
                                  maxima};
        if (plan.groups > 0) (plan.few ? screen_few : screen_many)(screening, queue);
        const Finish finish{maxima,
                            plan.groups,
                            plan.group,
                            queries,
                            plan.few ? nullptr : norms,
                            task.bank,
                            task.exclude == nullptr ? nullptr : task.exclude + first,
                            static_cast<int>(task.k),
                            room,
                            static_cast<float>(2 * cuda_error(dim)),
                            task.scores + first * task.k,
                            task.indices + first * task.k};
        const std::size_t shared = static_cast<std::size_t>(room) * (sizeof(Ranked) + 2 * sizeof(unsigned));
        cudaFuncSetAttribute(finish_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
        finish_kernel<<<static_cast<unsigned>(count), kThreads, shared, queue>>>(finish);
        check_launched("scoring");
    }
}

}  // namespace pymetaner
