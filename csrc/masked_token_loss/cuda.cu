// One block for each sentence. The logits of up to 128 tokens at a time come into shared memory as they lie in global
// memory, so that loads are coalesced; each thread then has one token: its largest logit, exponentials, sum and loss,
// and the gradient takes the logits' place, to be stored coalesced again. Sums over threads follow a fixed tree, so the
// answer is deterministic. The largest token's share of the gradient is multiplied in when the whole sentence is known.
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

template <typename Logit>
__global__ void __launch_bounds__(kThreads) masked_token_loss_kernel(CudaLoss task, int tokens_at_once) {
    extern __shared__ float tile[];
    __shared__ int counts[kThreads];
    __shared__ double sums[kThreads];
    __shared__ Worst worsts[kThreads];
    __shared__ int invalid;

    const int thread = static_cast<int>(threadIdx.x);
    const std::int64_t sentence = blockIdx.x;
    const auto classes = static_cast<int>(task.classes);
    const auto tokens = static_cast<int>(task.tokens);
    const std::int64_t* const labels = task.labels + sentence * tokens;
    const Logit* const logits = static_cast<const Logit*>(task.logits) + sentence * tokens * classes;
    float* const gradient = task.gradient + sentence * tokens * classes;

    if (thread == 0) invalid = 0;
    __syncthreads();
    int counted = 0;
    for (int t = thread; t < tokens; t += kThreads) {
        if (labels[t] == task.ignore_index) continue;
        ++counted;
        if (labels[t] < 0 || labels[t] >= classes) invalid = 1;
    }
    counts[thread] = counted;
    for (int half = kThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) counts[thread] += counts[thread + half];
    }
    __syncthreads();
    const int total = counts[0];
    const float share = total > 0 ? 1.0F / static_cast<float>(total) : 0.0F;
    if (invalid != 0) {
        for (int i = thread; i < tokens * classes; i += kThreads) gradient[i] = nanf("");
        if (thread == 0) task.loss[sentence] = nanf("");
        return;
    }

    double sum = 0.0;
    Worst worst{0.0F, -1};
    for (int first = 0; first < tokens; first += tokens_at_once) {
        const int count = min(tokens_at_once, tokens - first);
        const std::int64_t offset = static_cast<std::int64_t>(first) * classes;
        for (int i = thread; i < count * classes; i += kThreads) tile[i] = widened(logits[offset + i]);
        __syncthreads();
        for (int t = thread; t < count; t += kThreads) {
            const std::int64_t label = labels[first + t];
            float* const row = tile + t * classes;
            if (label == task.ignore_index) {
                for (int c = 0; c < classes; ++c) row[c] = 0.0F;
                continue;
            }
            const float loss = token_loss(row, classes, static_cast<int>(label), share);
            sum += loss;
            worst = larger(worst, {loss, first + t});
        }
        __syncthreads();
        for (int i = thread; i < count * classes; i += kThreads) gradient[offset + i] = tile[i];
        __syncthreads();
    }

    sums[thread] = sum;
    worsts[thread] = worst;
    for (int half = kThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) {
            sums[thread] += sums[thread + half];
            worsts[thread] = larger(worsts[thread], worsts[thread + half]);
        }
    }
    __syncthreads();
    if (total == 0) {
        if (thread == 0) task.loss[sentence] = 0.0F;
        return;
    }
    const float factor = 1.0F + task.lambda_max * static_cast<float>(total);
    const std::int64_t row = static_cast<std::int64_t>(worsts[0].token) * classes;
    for (int c = thread; c < classes; c += kThreads) gradient[row + c] *= factor;
    if (thread == 0) {
        const double mean = sums[0] / total;
        task.loss[sentence] = static_cast<float>(mean + static_cast<double>(task.lambda_max) * worsts[0].loss);
    }
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
