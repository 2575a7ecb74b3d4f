// The masked token loss on CUDA: one launch on the caller's stream, nothing read back.
#pragma once

#include <cstdint>

namespace pymetaner {

// Plain pointers into device memory; see masked_token_loss.hpp for shapes. `dtype` of the logits: 0 float32, 1
// bfloat16, 2 float16. loss and gradient are float32. A sentence with a label that is neither a class nor ignore_index
// has loss NaN and gradient NaN: telling the host would mean to wait for the device.
struct CudaLoss {
    const void* logits;
    int dtype;
    const std::int64_t* labels;
    std::int64_t sentences, tokens, classes;
    float lambda_max;
    std::int64_t ignore_index;
    float* loss;
    float* gradient;
};

constexpr std::int64_t kCudaMaxClasses = 1024;  // the logits of eight tokens have to fit into shared memory

// Launches the kernel on `stream`, a cudaStream_t. Throws std::runtime_error if it cannot be launched.
void cuda_masked_token_loss(const CudaLoss& task, std::uintptr_t stream);

}  // namespace pymetaner
