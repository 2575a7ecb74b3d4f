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

constexpr int kThreads = 128;
constexpr int kPairs = kThreads / 8;  // scored exactly at a time
constexpr int kBuckets = 16;          // a thread's, of maxima
constexpr unsigned kAll = 0xFFFFFFFFU;
static_assert(kThreads * kBuckets > kCudaMaxK, "or the k-th largest of them would not be known");

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
    const double* norms;  // of the queries
    CudaRows bank;
    const std::int64_t* exclude;
    int k, room;
    float margin;  // 2 E
    float* scores;
    std::int64_t* indices;
};

// The maxima of a query, dealt out to buckets: four numbers in a row go to the same thread, to four of its buckets.
struct Buckets {
    static constexpr int kFours = kBuckets / 4;
    static constexpr int kRound = kThreads * kBuckets;  // numbers that are dealt out at a time

    const float* numbers;
    std::int64_t count;  // a multiple of 4
    float tops[kBuckets];

    __device__ Buckets(const float* from, std::int64_t size) : numbers(from), count(size) {
        constexpr int kAhead = 2;  // rounds
        for (float& top : tops) top = nanf("");
        for (std::int64_t round = 4 * threadIdx.x; round < count; round += kAhead * kRound) {
            float4 read[kAhead * kFours];
#pragma unroll
            for (int i = 0; i < kAhead * kFours; ++i) {
                const std::int64_t at = round + 4 * kThreads * i;
                if (at < count) read[i] = *reinterpret_cast<const float4*>(numbers + at);
                if (at >= count) read[i] = {nanf(""), nanf(""), nanf(""), nanf("")};
            }
#pragma unroll
            for (int i = 0; i < kAhead * kFours; ++i) {
                float* const top = tops + 4 * (i % kFours);
                top[0] = fmaxf(top[0], read[i].x);  // which is the other one if one is NaN
                top[1] = fmaxf(top[1], read[i].y);
                top[2] = fmaxf(top[2], read[i].z);
                top[3] = fmaxf(top[3], read[i].w);
            }
        }
    }

    // A value that at least `wanted` of the numbers reach, or minus infinity if there are too few; NaN does not count.
    // Each bucket stands for its largest number. Called by the whole block.
    __device__ float reached_by(int wanted) const {
        __shared__ unsigned counts[2][kThreads / 32];
        unsigned keys[kBuckets];
#pragma unroll
        for (int b = 0; b < kBuckets; ++b) keys[b] = screening_key(tops[b]);
        unsigned found = 0;
        for (int shift = 12; shift >= 0; shift -= 2) {  // two bits of the key at a time
            unsigned own = 0;
#pragma unroll
            for (const unsigned key : keys) {
                own += key >= (found | 1U << shift) ? 1U : 0U;
                own += key >= (found | 2U << shift) ? 1U << 10 : 0U;
                own += key >= (found | 3U << shift) ? 1U << 20 : 0U;
            }
            own = __reduce_add_sync(kAll, own);  // at most 512 of each
            unsigned* const shared = counts[shift / 2 % 2];
            if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = own;
            __syncthreads();
            int reached[3] = {};
            for (int warp = 0; warp < kThreads / 32; ++warp) {
                for (int i = 0; i < 3; ++i) reached[i] += static_cast<int>(shared[warp] >> 10 * i & 1023U);
            }
            const unsigned most = reached[2] >= wanted ? 3 : reached[1] >= wanted ? 2 : reached[0] >= wanted ? 1 : 0;
            found |= most << shift;
        }
        return found == 0 ? -INFINITY : least_of_key(found);
    }

    // Calls f(i) for every number that reaches the limit: only buckets that do are read again.
    template <class Function>
    __device__ void for_each_from(float limit, const Function& f) const {
#pragma unroll
        for (int b = 0; b < kBuckets; ++b) {
            if (!(tops[b] >= limit)) continue;
            for (std::int64_t i = 4 * (threadIdx.x + b / 4 * kThreads) + b % 4; i < count; i += kRound) {
                if (numbers[i] >= limit) f(i);
            }
        }
    }
};

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

__global__ void __launch_bounds__(kThreads, 4) finish_kernel(const __grid_constant__ Finish task) {
    extern __shared__ __align__(16) unsigned char shared[];
    auto* const best = reinterpret_cast<Ranked*>(shared);                // room
    auto* const listed = reinterpret_cast<unsigned*>(best + task.room);  // 2 * room: groups to be scored
    __shared__ int size, groups_left;

    const int thread = static_cast<int>(threadIdx.x), lane = thread % 8;
    const std::int64_t query = blockIdx.x, dim = task.bank.dim;
    const std::int64_t excluded = task.exclude == nullptr ? -1 : task.exclude[query];
    const float* const maxima = task.maxima + query * task.groups;
    if (thread == 0) size = groups_left = 0;
    __syncthreads();
    const Buckets buckets(maxima, task.groups);
    const float limit = buckets.reached_by(task.k + (excluded >= 0 ? 1 : 0)) - task.margin;
    buckets.for_each_from(limit, [&](std::int64_t group) {
        const int place = atomicAdd(&groups_left, 1);
        if (place < 2 * task.room) listed[place] = static_cast<unsigned>(group);
    });
    const float* const row = task.queries + query * dim;
    const double norm = task.norms[query];
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

std::size_t shared_of(int room) {
    return static_cast<std::size_t>(room) * (sizeof(Ranked) + 2 * sizeof(unsigned));
}

constexpr std::int64_t kMaximaBytes = std::int64_t{1} << 28;  // of a batch of queries, about
constexpr std::int64_t kFewFloats = 12 * 1024;                // queries that shared memory holds on every device
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
    const std::int64_t padded = rounded_up(plan.batch, kCudaTile);
    plan.copies_at = static_cast<std::size_t>(padded) * sizeof(double);
    const std::int64_t copies = plan.few ? 0 : padded * width;
    plan.maxima_at = plan.copies_at + static_cast<std::size_t>(copies) * sizeof(__half);
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
                                  maxima,
                                  norms};
        if (plan.groups > 0) (plan.few ? screen_few : screen_many)(screening, queue);
        const Finish finish{maxima,
                            plan.groups,
                            plan.group,
                            queries,
                            norms,
                            task.bank,
                            task.exclude == nullptr ? nullptr : task.exclude + first,
                            static_cast<int>(task.k),
                            room,
                            static_cast<float>(2 * cuda_error(dim)),
                            task.scores + first * task.k,
                            task.indices + first * task.k};
        const std::size_t shared = shared_of(room);
        allow_shared<finish_kernel>(static_cast<int>(shared_of(room_of(kCudaMaxK))));
        finish_kernel<<<static_cast<unsigned>(count), kThreads, shared, queue>>>(finish);
        check_launched("scoring");
    }
}

}  // namespace pymetaner
