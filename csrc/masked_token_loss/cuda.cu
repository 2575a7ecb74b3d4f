// One block for each sentence. The logits of up to 128 tokens at a time come into shared memory as they lie in global
// memory, 16 bytes a load; each thread then has one token: its largest logit, exponentials, sum and loss, and the
// gradient takes the logits' place, to be stored 16 bytes at a time again. Sums over threads follow a fixed tree, so
// the answer is deterministic. The largest token's share of the gradient is multiplied in when the whole sentence is
// known.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "masked_token_loss/cuda.hpp"

namespace pymetaner {
namespace {

constexpr int kThreads = 128;
constexpr unsigned kAll = 0xFFFFFFFFU;
constexpr int kSharedFloats = 11 * 1024;  // 44 KiB, which every device gives without asking

__device__ float widened(float x) {
    return x;
}
__device__ float widened(__nv_bfloat16 x) {
    return __bfloat162float(x);
}
__device__ float widened(__half x) {
    return __half2float(x);
}

struct Worst {
    float loss;
    int token;
};

// The larger loss; of equal ones the first token.
__device__ Worst larger(Worst a, Worst b) {
    if (b.token < 0) return a;
    if (a.token < 0) return b;
    return a.loss > b.loss || (a.loss == b.loss && a.token < b.token) ? a : b;
}

// Loss of a token; its logits become weight times their gradient.
__device__ float token_loss(float* row, int classes, int label, float weight) {
    float largest = row[0];
    for (int c = 1; c < classes; ++c) largest = row[c] > largest ? row[c] : largest;
    const float distance = largest - row[label];
    float own = 0.0F, others = 0.0F;
    for (int c = 0; c < classes; ++c) {
        row[c] = expf(row[c] - largest);
        if (c == label) {
            own = row[c];
        } else {
            others += row[c];
        }
    }
    const float sum = own + others;
    const float scale = weight / sum;
    for (int c = 0; c < classes; ++c) row[c] *= scale;
    row[label] = -others * scale;  // p - 1 without cancellation
    return logf(sum) + distance;
}

// The larger loss and the sum of a block; every thread gets both. Warps in a fixed order: deterministic.
__device__ double block_sum(double sum, Worst* worst) {
    constexpr int kWarps = kThreads / 32;
    __shared__ double sums[kWarps];
    __shared__ Worst worsts[kWarps];
    for (int half = 16; half > 0; half /= 2) {
        sum += __shfl_xor_sync(kAll, sum, half);
        const Worst other{__shfl_xor_sync(kAll, worst->loss, half), __shfl_xor_sync(kAll, worst->token, half)};
        *worst = larger(*worst, other);
    }
    if (threadIdx.x % 32 == 0) {
        sums[threadIdx.x / 32] = sum;
        worsts[threadIdx.x / 32] = *worst;
    }
    __syncthreads();
    sum = 0.0;
    *worst = {0.0F, -1};
    for (int warp = 0; warp < kWarps; ++warp) {
        sum += sums[warp];
        *worst = larger(*worst, worsts[warp]);
    }
    return sum;
}

// Four logits at a time where they lie so, as they do unless somebody took a slice in between.
template <typename Logit>
__device__ void load_tile(const Logit* from, int count, float* tile) {
    constexpr std::uintptr_t kBytes = 4 * sizeof(Logit);
    struct alignas(kBytes) Four {
        Logit items[4];
    };
    const bool aligned = reinterpret_cast<std::uintptr_t>(from) % kBytes == 0;
    const int fours = aligned ? count / 4 : 0;
    for (int i = static_cast<int>(threadIdx.x); i < fours; i += kThreads) {
        const Four four = reinterpret_cast<const Four*>(from)[i];
        reinterpret_cast<float4*>(tile)[i] = {widened(four.items[0]), widened(four.items[1]), widened(four.items[2]),
                                              widened(four.items[3])};
    }
    for (int i = 4 * fours + static_cast<int>(threadIdx.x); i < count; i += kThreads) tile[i] = widened(from[i]);
}

__device__ void store_tile(const float* tile, int count, float* to) {
    const int fours = reinterpret_cast<std::uintptr_t>(to) % sizeof(float4) == 0 ? count / 4 : 0;
    for (int i = static_cast<int>(threadIdx.x); i < fours; i += kThreads) {
        reinterpret_cast<float4*>(to)[i] = reinterpret_cast<const float4*>(tile)[i];
    }
    for (int i = 4 * fours + static_cast<int>(threadIdx.x); i < count; i += kThreads) to[i] = tile[i];
}

template <typename Logit>
__global__ void __launch_bounds__(kThreads, 10) masked_token_loss_kernel(CudaLoss task, int tokens_at_once) {
    extern __shared__ __align__(16) unsigned char shared[];
    auto* const tile = reinterpret_cast<float*>(shared);
    const int thread = static_cast<int>(threadIdx.x);
    const std::int64_t sentence = blockIdx.x;
    const auto classes = static_cast<int>(task.classes);
    const auto tokens = static_cast<int>(task.tokens);
    const std::int64_t* const labels = task.labels + sentence * tokens;
    const Logit* const logits = static_cast<const Logit*>(task.logits) + sentence * tokens * classes;
    float* const gradient = task.gradient + sentence * tokens * classes;

    load_tile(logits, min(tokens_at_once, tokens) * classes, tile);
    int total = 0, invalid = 0;
    for (int first = 0; first < tokens; first += kThreads) {
        const std::int64_t label = first + thread < tokens ? labels[first + thread] : task.ignore_index;
        const bool counted = label != task.ignore_index;
        total += __syncthreads_count(counted ? 1 : 0);
        invalid |= counted && (label < 0 || label >= classes) ? 1 : 0;
    }
    if (__syncthreads_or(invalid) != 0) {
        for (int i = thread; i < tokens * classes; i += kThreads) gradient[i] = nanf("");
        if (thread == 0) task.loss[sentence] = nanf("");
        return;
    }

    const float share = total > 0 ? 1.0F / static_cast<float>(total) : 0.0F;
    const float factor = 1.0F + task.lambda_max * static_cast<float>(total);
    double sum = 0.0;
    Worst worst{0.0F, -1};
    for (int first = 0; first < tokens; first += tokens_at_once) {
        const int count = min(tokens_at_once, tokens - first);
        const std::int64_t offset = static_cast<std::int64_t>(first) * classes;
        if (first > 0) {
            load_tile(logits + offset, count * classes, tile);
            __syncthreads();
        }
        if (thread < count) {
            const std::int64_t label = labels[first + thread];
            float* const row = tile + thread * classes;
            if (label == task.ignore_index) {
                for (int c = 0; c < classes; ++c) row[c] = 0.0F;
            } else {
                const float loss = token_loss(row, classes, static_cast<int>(label), share);
                sum += loss;
                worst = larger(worst, {loss, first + thread});
            }
        }
        __syncthreads();
        // The last tile is stored when the largest token is known, which most often is one of its own.
        if (first + count < tokens) {
            store_tile(tile, count * classes, gradient + offset);
            __syncthreads();
            continue;
        }
        sum = block_sum(sum, &worst);
        if (worst.token >= first) {
            for (int c = thread; c < classes; c += kThreads) tile[(worst.token - first) * classes + c] *= factor;
        }
        __syncthreads();
        store_tile(tile, count * classes, gradient + offset);
        if (worst.token >= 0 && worst.token < first) {
            const std::int64_t row = static_cast<std::int64_t>(worst.token) * classes;
            for (int c = thread; c < classes; c += kThreads) gradient[row + c] *= factor;
        }
    }
    if (thread > 0) return;
    const double mean = total > 0 ? sum / total : 0.0;
    // Without a max term an infinite loss stays one: 0 times it would be NaN.
    const double largest = task.lambda_max > 0.0F ? static_cast<double>(task.lambda_max) * worst.loss : 0.0;
    task.loss[sentence] = static_cast<float>(mean + largest);
}

}  // namespace

void cuda_masked_token_loss(const CudaLoss& task, std::uintptr_t stream) {
    if (task.sentences == 0) return;
    const int at_once = std::min(kThreads, kSharedFloats / static_cast<int>(task.classes));
    const auto shared = static_cast<std::size_t>(at_once * task.classes) * sizeof(float);
    const auto blocks = static_cast<unsigned>(task.sentences);
    const auto queue = reinterpret_cast<cudaStream_t>(stream);
    if (task.dtype == 0) masked_token_loss_kernel<float><<<blocks, kThreads, shared, queue>>>(task, at_once);
    if (task.dtype == 1) masked_token_loss_kernel<__nv_bfloat16><<<blocks, kThreads, shared, queue>>>(task, at_once);
    if (task.dtype == 2) masked_token_loss_kernel<__half><<<blocks, kThreads, shared, queue>>>(task, at_once);
    const cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess) {
        throw std::runtime_error(std::string("the loss could not be launched: ") + cudaGetErrorString(status));
    }
}

}  // namespace pymetaner
