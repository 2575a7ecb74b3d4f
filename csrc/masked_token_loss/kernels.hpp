// What the loss needs of an instruction set: one sentence, for each type of logits.
#pragma once

#include <cstdint>

#include "masked_token_loss/masked_token_loss.hpp"

namespace pymetaner {

constexpr int kTokens = 8;  // tokens computed together
constexpr int kLanes = 8;   // classes of a token computed together

// One sentence, whose counted tokens are given.
template <typename Logit>
struct Sentence {
    const Logit* logits;         // (tokens, classes)
    const std::int64_t* labels;  // (tokens)
    const std::int64_t* places;  // (count): the counted tokens, ascending
    std::int64_t count;          // 1 or more
    std::int64_t classes;
    double lambda_max;
    ResultOf<Logit>* block;     // room for kTokens * (classes + kLanes)
    ResultOf<Logit>* gradient;  // (tokens, classes): the rows of counted tokens are written
};

struct LossKernels {
    double (*float32)(const Sentence<float>&);
    double (*float64)(const Sentence<double>&);
    double (*bfloat16)(const Sentence<BFloat16>&);
    double (*float16)(const Sentence<Float16>&);
};

LossKernels scalar_loss();
LossKernels avx2_loss();
LossKernels avx512_loss();
LossKernels neon_loss();

}  // namespace pymetaner
