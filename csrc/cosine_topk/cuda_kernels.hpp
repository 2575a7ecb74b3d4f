// What the files of the CUDA search share; for nvcc.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <atomic>
#include <stdexcept>
#include <string>

#include "cosine_topk/cuda.hpp"
#include "cosine_topk/ranking.hpp"

namespace pymetaner {

inline std::int64_t rounded_up(std::int64_t count, std::int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

inline void check_launched(const char* what) {
    const cudaError_t status = cudaGetLastError();
    if (status == cudaSuccess) return;
    throw std::runtime_error(std::string(what) + " could not be launched: " + cudaGetErrorString(status));
}

inline int device_attribute(cudaDeviceAttr attribute) {
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, attribute, device);
    return value;
}

// Lets blocks of a kernel have this much shared memory; asked for once a device.
template <auto kernel>
void allow_shared(int bytes) {
    static std::atomic<std::uint64_t> allowed{0};
    int device = 0;
    cudaGetDevice(&device);
    const std::uint64_t own = device < 64 ? std::uint64_t{1} << device : 0;
    if ((allowed.load() & own) != 0) return;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    allowed |= own;
}

// maxima[q, g] = the largest screening product of query q with a row of group g; NaN if it has none that is finite.
struct Screening {
    const float* rows;      // the queries themselves, where they are few
    const __half* queries;  // or encoded
    const __half* bank;
    std::int64_t count, dim, padded_dim, padded_bank;
    int group;
    float* maxima;
    double* norms;  // of the queries, which screen_few fills as encoding does
};

// The dot product of two rows, for all eight threads of a group; dot.hpp tells its order. What is read does not depend
// on sums, so it is read well ahead.
__device__ inline double exact_dot(const float* a, const float* b, std::int64_t dim, int lane) {
    constexpr int kAhead = 32;
    double sum = 0.0;
    std::int64_t i = lane;
    for (; i + 8 * (kAhead - 1) < dim; i += 8 * kAhead) {
        float x[kAhead], y[kAhead];
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
            x[j] = a[i + 8 * j];
            y[j] = b[i + 8 * j];
        }
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
            sum = __dadd_rn(sum, __dmul_rn(static_cast<double>(x[j]), static_cast<double>(y[j])));
        }
    }
#pragma unroll 8
    for (; i < dim; i += 8) sum = __dadd_rn(sum, __dmul_rn(static_cast<double>(a[i]), static_cast<double>(b[i])));
    // The loops may end apart for the eight threads.
    __syncwarp();
    for (int half = 4; half > 0; half /= 2) sum = __dadd_rn(sum, __shfl_xor_sync(0xFFFFFFFFU, sum, half, 8));
    return sum;
}

// -1 for a row that is not finite.
__device__ inline double exact_norm(const float* row, std::int64_t dim, int lane) {
    const double square = exact_dot(row, row, dim, lane);
    return isfinite(square) ? sqrt(square) : -1.0;
}

void screen_few(const Screening& task, cudaStream_t stream);
void screen_many(const Screening& task, cudaStream_t stream);
bool screen_with_wgmma(const Screening& task, cudaStream_t stream);  // false where the device has no such instruction

}  // namespace pymetaner
