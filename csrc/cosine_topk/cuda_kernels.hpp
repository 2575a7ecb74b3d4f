// What the files of the CUDA search share; for nvcc.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

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

// maxima[q, g] = the largest screening product of query q with a row of group g; NaN if it has none that is finite.
struct Screening {
    const float* rows;      // the queries themselves, where they are few
    const __half* queries;  // or encoded
    const __half* bank;
    std::int64_t count, dim, padded_dim, padded_bank;
    int group;
    float* maxima;
};

void screen_few(const Screening& task, cudaStream_t stream);
void screen_many(const Screening& task, cudaStream_t stream);

}  // namespace pymetaner
